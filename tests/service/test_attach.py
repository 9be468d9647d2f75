"""Reaching into running jobs: command line, gateway, scheduler and runner, all of them real."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cairn._attach.line import ATTACH, CARRY, SERVE, PersonLine, RunnerLine
from cairn._http import ApiError
from cairn._stream import Stream
from cairn.client import Client
from cairn.scheduler.v1 import attach_pb2 as pb
from tests.harness.platform import Platform
from tests.harness.terminal import Terminal

PYTHON = sys.executable

# Listens on a free port, says which; reads each connection to its end, then answers with what it was.
SUMS = """
import hashlib, socketserver
class Sum(socketserver.StreamRequestHandler):
    def handle(self):
        data = self.rfile.read()
        self.wfile.write(f"{len(data)} {hashlib.sha256(data).hexdigest()}".encode() + b"." * 300_000)
class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 64
with Server(("127.0.0.1", 0), Sum) as server:
    print("port", server.server_address[1], flush=True)
    server.serve_forever()
"""


@pytest.fixture(scope="module")
def platform(session_folder: Path) -> Iterator[Platform]:
    (session_folder / "attach").mkdir()
    platform = Platform(session_folder / "attach")
    platform.up()
    yield platform
    platform.down()


@pytest.fixture(scope="module")
def client(platform: Platform) -> Client:
    return platform.client()


def start(client: Client, run: str, *, state: str = "RUNNING", more: str = "") -> str:
    """A job that has come this far; its uid."""
    lines = "\n".join(f"  {line}" for line in run.splitlines())
    uid = str(client.submit(f"resources: {{cpus: 0.1}}\n{more}\nrun: |\n{lines}\n")["uid"])
    for _ in client.events(job=uid, patience=60):
        job = client.job(uid)
        if job["state"] == state:
            return uid
        assert job["state"] in ("PENDING", "ADMITTED", "LAUNCHING"), job
    raise AssertionError("no events")


@pytest.fixture(scope="module")
def job(client: Client) -> str:
    return start(client, "echo mine > mine.txt; exec sleep 600", more="envs: {GIVEN: a b}")


def exec_(
    platform: Platform, *arguments: str, given: bytes = b"", timeout: float = 60
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [platform.program, "exec", *arguments],
        env=platform.env,
        input=given,
        capture_output=True,
        timeout=timeout,
    )


@contextmanager
def running(platform: Platform, *arguments: str, **how: Any) -> Iterator[subprocess.Popen[bytes]]:
    """`cairn ...` beside the test."""
    made = subprocess.Popen(
        [platform.program, *arguments],
        env=platform.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **how,
    )
    try:
        yield made
    finally:
        made.kill()
        made.communicate()


def until(true: Callable[[], object], what: str, *, timeout: float = 30) -> None:
    end = time.monotonic() + timeout
    while not true():
        assert time.monotonic() < end, what
        time.sleep(0.05)


def test_a_command_runs_in_the_jobs_place_and_what_it_says_comes_back(platform: Platform, job: str) -> None:
    script = 'cat mine.txt; echo "$GIVEN $CAIRN_RUN $CAIRN_RANK" >&2; exit 7'
    done = exec_(platform, job, "--", "sh", "-c", script)
    assert (done.returncode, done.stdout) == (7, b"mine\n")
    assert done.stderr.decode() == f"a b {job} 0\n"
    told = exec_(platform, job, "--json", "--", "sh", "-c", "echo out; echo err >&2; kill -TERM $$")
    assert told.returncode == 143
    row = json.loads(told.stdout)
    assert (row["exit_code"], row["signal"], row["stdout"], row["stderr"]) == (143, 15, "out\n", "err\n")
    missing = exec_(platform, job, "--", "no-such-program")
    assert missing.returncode == 255
    assert b"no program 'no-such-program'" in missing.stderr


def test_ten_megabytes_go_in_and_come_out_intact(platform: Platform, job: str) -> None:
    data = os.urandom(10 * 2**20 + 1)
    done = exec_(platform, job, "--", "cat", given=data)
    assert done.returncode == 0, done.stderr
    assert hashlib.sha256(done.stdout).digest() == hashlib.sha256(data).digest()


def test_who_reads_no_more_ends_the_command(platform: Platform, job: str) -> None:
    line = f"{platform.program} exec {job} -- sh -c 'echo $$; exec yes' | head -1"
    pid = subprocess.run(["bash", "-c", line], env=platform.env, capture_output=True, timeout=60).stdout
    until(lambda: not Path(f"/proc/{int(pid)}").exists(), "`yes` goes on")


def test_who_goes_while_nothing_flows_ends_the_command_too(platform: Platform, job: str) -> None:
    with running(platform, "exec", job, "--", "sh", "-c", "echo $$; exec yes") as own:
        assert own.stdout is not None
        pid = int(own.stdout.readline())
        # Nobody reads: the pipe and the windows fill, and `yes` can write no more.
        written = [-1]

        def stands_still() -> bool:
            facts = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
            written.append(int(facts["wchar"]))
            return written[-1] == written[-2] > 2**19

        until(stands_still, "`yes` is not held back")
        own.stdout.close()
        assert own.wait(30) != 0
        until(lambda: not Path(f"/proc/{pid}").exists(), "`yes` goes on")


def test_ctrl_c_reaches_a_command_that_reads_nothing(platform: Platform, job: str) -> None:
    script = "trap 'echo caught; exit 3' INT; echo up; while :; do sleep 0.1; done"
    with (
        open("/dev/zero", "rb") as zeros,
        running(platform, "exec", job, "--", "sh", "-c", script, stdin=zeros) as own,
    ):
        assert own.stdout is not None
        assert own.stdout.readline() == b"up\n"
        own.send_signal(signal.SIGINT)
        assert own.stdout.readline() == b"caught\n"
        assert own.wait(30) == 3


def test_a_shell_on_a_terminal(platform: Platform, job: str) -> None:
    with Terminal(
        [platform.program, "ssh", job, "--", "bash", "--norc"], env=platform.env, rows=31, columns=91
    ) as own:
        own.type("PS1='read''y>'; stty size; cat mine.txt; tty; echo $GIVEN-$TERM\r")
        for shown in ("31 91", "mine", "/dev/", "a b-", "ready>"):
            own.until(shown)
        own.resize(42, 77)
        own.type("while [ \"$(stty size)\" != '42 77' ]; do sleep 0.05; done; echo res''ized\r")
        own.until("resized")
        own.until("ready>")
        own.type("sh -c \"echo beg''un; exec sleep 1000\"\r")
        own.until("begun")
        own.type("\x03")
        own.until("ready>")
        own.type("echo still'' here $?\r")
        own.until("still here 130")
        own.until("ready>")
        own.type("exit 5\r")
        assert own.wait() == 5


def test_it_can_be_left_when_nothing_else_gets_through(platform: Platform, job: str) -> None:
    command = ("ssh", job, "--", "sh", "-c", "echo up; exec sleep 1000")
    with Terminal([platform.program, *command], env=platform.env) as own:
        own.until("up")
        own.type("\r~.")
        assert own.wait() == 255


def test_a_job_that_is_set_up_can_be_reached_and_the_session_lives_on(
    platform: Platform, client: Client
) -> None:
    more = "setup: |\n  while [ ! -e go ]; do sleep 0.1; done"
    uid = start(client, "exec sleep 600", state="LAUNCHING", more=more)
    script = "echo in; touch go; read line; echo $line"
    with running(platform, "exec", uid, "--", "bash", "-c", script, stdin=subprocess.PIPE) as own:
        assert own.stdout is not None
        assert own.stdin is not None
        assert own.stdout.readline() == b"in\n"
        until(lambda: client.job(uid)["state"] == "RUNNING", "it does not run")
        own.stdin.write(b"after\n")
        own.stdin.flush()
        assert own.stdout.readline() == b"after\n"
        assert own.wait(30) == 0
    client.cancel(uid)


def port_of(client: Client, uid: str) -> int:
    found: list[int] = []

    def look() -> bool:
        lines = [line["text"] for line in client.logs(uid)["lines"]]
        found.extend(int(text.split()[1]) for text in lines if text.startswith("port "))
        return bool(found)

    until(look, "no port was said")
    return found[0]


@contextmanager
def forwarded(
    platform: Platform, uid: str, *ports: int
) -> Iterator[tuple[subprocess.Popen[bytes], list[int]]]:
    with running(platform, "forward", uid, "--json", *(f"{port}:0" for port in ports)) as own:
        assert own.stdout is not None
        yield own, [each["local"] for each in json.loads(own.stdout.readline())["ports"]]


def sums(port: int, data: bytes) -> bytes:
    """Sends, shuts its own way down, and only then reads."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as made:
        made.sendall(data)
        made.shutdown(socket.SHUT_WR)
        answer = b""
        while part := made.recv(65536):
            answer += part
    return answer


def test_ports_come_here_for_many_connections_at_once_each_way_ending_by_itself(
    platform: Platform, client: Client
) -> None:
    uid = start(client, f"cat > sums.py <<'END'{SUMS}END\n{PYTHON} -m http.server 0 &\nexec {PYTHON} sums.py")
    with forwarded(platform, uid, port_of(client, uid)) as (own, (port,)):
        given = [os.urandom(200_000 + number) for number in range(16)]
        answers: dict[int, bytes] = {}
        threads = [
            threading.Thread(target=lambda n=n: answers.__setitem__(n, sums(port, given[n])))  # type: ignore[misc]
            for n in range(16)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        for number, data in enumerate(given):
            told = f"{len(data)} {hashlib.sha256(data).hexdigest()}".encode()
            assert answers[number] == told + b"." * 300_000
        client.cancel(uid)
        assert own.wait(60) == 0
        assert b"has ended" in own.communicate()[1]


def test_a_web_server_of_the_job_answers_here_and_a_port_that_is_shut_says_so(
    platform: Platform, client: Client
) -> None:
    uid = start(client, f"echo page > index.html\n{PYTHON} -uc '{WEB}'")
    with forwarded(platform, uid, port_of(client, uid), 1) as (own, (web, shut)):
        for _ in range(3):
            with urllib.request.urlopen(f"http://127.0.0.1:{web}/", timeout=30) as answer:
                assert answer.read() == b"page\n"
        assert sums(shut, b"x") == b""
        own.send_signal(signal.SIGINT)
        assert b"nothing listens on port 1 " in own.communicate(timeout=30)[1]
    client.cancel(uid)


WEB = (
    'import http.server as h; s = h.ThreadingHTTPServer(("127.0.0.1", 0), h.SimpleHTTPRequestHandler);'
    ' print("port", s.server_address[1]); s.serve_forever()'
)


def test_the_session_ends_with_the_attempt(platform: Platform, client: Client) -> None:
    uid = start(client, "while [ ! -e end ]; do sleep 0.1; done")
    script = "echo $$; touch end; exec sleep 1000"
    with running(platform, "exec", uid, "--", "bash", "-c", script, stdin=subprocess.DEVNULL) as own:
        out, err = own.communicate(timeout=60)
        assert own.returncode == 255
        assert b"attempt has ended" in err
        assert not Path(f"/proc/{int(out)}").exists()
    until(lambda: client.job(uid)["state"] == "SUCCEEDED", "the job does not end")
    late = exec_(platform, uid, "--", "true")
    assert late.returncode == 255
    assert b"has ended as SUCCEEDED" in late.stderr


def test_what_does_not_run_yet_cannot_be_reached(platform: Platform, client: Client) -> None:
    uid = str(client.submit("resources: {cpus: 0.1}\nrun: sleep 1", name="later")["uid"])
    client.cancel(uid)
    assert b"has ended as CANCELLED" in exec_(platform, uid, "--", "true").stderr
    assert exec_(platform, "01arz3ndektsv4rrffq69g5fav", "--", "true").returncode == 255


def begin_at(job: str) -> bytes:
    start = pb.AttachStart(job=job, command=pb.Command(argv=["true"]))
    return pb.AttachRequest(start=start).SerializeToString()


async def refused(url: str, secret: str, path: str, first: bytes) -> ApiError:
    async def say() -> None:
        async with await Stream.open(url, path, secret) as stream:
            await stream.send(first)
            while await stream.receive() is not None:
                pass

    with pytest.raises(ApiError) as caught:
        await say()
    return caught.value


def run_token(platform: Platform, uid: str) -> str:
    orders = {json.loads(path.read_text())["run_uid"]: path for path in platform.data.rglob("launch.json")}
    return orders[uid].with_name("token").read_text()


async def test_only_members_of_the_team_and_the_attempts_own_runner_meet(
    platform: Platform, client: Client, job: str
) -> None:
    other = start(client, "exec sleep 600")
    secret = run_token(platform, job)
    begin = begin_at(f"teams/main/jobs/{job}")
    reader = client.api.post("/api/v1/tokens", {"display_name": "reader", "scope": "SCOPE_READ"})["secret"]
    assert (await refused(client.url, reader, ATTACH, begin)).reason == "SCOPE_TOO_LOW"
    assert (await refused(client.url, secret, ATTACH, begin)).reason == "SCOPE_TOO_LOW"
    assert (await refused(client.url, "cairn_0123456789abcdef", ATTACH, begin)).status == 401
    foreign = begin_at(f"teams/other/jobs/{job}")
    assert (await refused(client.url, client.token(), ATTACH, foreign)).reason == "TEAM_NOT_FOUND"
    serve = pb.ServeRequest().SerializeToString()
    assert (await refused(client.url, client.token(), SERVE, serve)).reason == "SCOPE_TOO_LOW"
    # A runner is handed the sessions of its own attempt, and can take no other.
    start_other = pb.AttachStart(job=f"teams/main/jobs/{other}", command=pb.Command(argv=["cat"]))
    async with await Stream.open(client.url, ATTACH, client.token()) as stream:
        session = (await PersonLine.begin(stream, start_other)).attached.session
        carry = pb.CarryRequest(session=session).SerializeToString()
        assert (await refused(client.url, secret, CARRY, carry)).reason == "SESSION_NOT_FOUND"
    client.cancel(other)


async def test_who_is_refused_hears_why_however_the_messages_cross(
    platform: Platform, client: Client, job: str
) -> None:
    # The refusal and the first message are on their way at once: one in five used to come as INTERNAL.
    secret, begin = run_token(platform, job), begin_at(f"teams/main/jobs/{job}")
    for _ in range(10):
        errors = await asyncio.gather(*(refused(client.url, secret, ATTACH, begin) for _ in range(20)))
        assert {error.reason for error in errors} == {"SCOPE_TOO_LOW"}


async def test_a_session_is_taken_once_and_a_listener_that_does_not_take_it_stops_nobody(
    client: Client, platform: Platform
) -> None:
    uid = start(client, "exec sleep 600")
    secret = run_token(platform, uid)
    async with await Stream.open(client.url, SERVE, secret) as serve:
        await serve.send(pb.ServeRequest(ranks=[0]).SerializeToString())
        assert await serve.receive() == b""
        async with await Stream.open(client.url, ATTACH, client.token()) as stream:
            start_it = pb.AttachStart(job=f"teams/main/jobs/{uid}", command=pb.Command(argv=["true"]))
            line = await asyncio.wait_for(PersonLine.begin(stream, start_it), 30)
            raw = await serve.receive()
            assert pb.ServeResponse.FromString(raw or b"").session == line.attached.session
            async with await Stream.open(client.url, CARRY, secret) as late:
                with pytest.raises(ApiError, match="no session"):
                    await RunnerLine.take(late, line.attached.session)
            assert [output.exit.code async for output in line.outputs()] == [0]
    client.cancel(uid)


def test_a_scheduler_that_is_killed_ends_sessions_clearly_and_they_work_again(
    platform: Platform, client: Client, job: str
) -> None:
    with running(
        platform, "exec", job, "--", "sh", "-c", "echo $$; exec sleep 1000", stdin=subprocess.DEVNULL
    ) as own:
        assert own.stdout is not None
        pid = int(own.stdout.readline())
        platform.kill("scheduler")
        _, err = own.communicate(timeout=60)
        assert own.returncode == 255
        assert b"error: " in err
        until(lambda: not Path(f"/proc/{pid}").exists(), "the command goes on")
    done = subprocess.CompletedProcess[bytes]([], 255)
    end = time.monotonic() + 60
    while done.returncode and time.monotonic() < end:  # the supervisor is starting it
        done = exec_(platform, job, "--", "echo", "again")
    assert done.stdout == b"again\n"


def test_who_reached_in_is_told(platform: Platform, client: Client, job: str) -> None:
    events = client.events(job=job, types=["session.opened"], patience=30)
    for event in events:
        if event.type == "open":
            assert exec_(platform, job, "--", "echo", "who did this").returncode == 0
        if event.type == "session.opened" and "who did this" in event.data["command"]:
            break
    log = (platform.data / "logs" / "scheduler.log").read_text()
    rows = [json.loads(row) for row in log.splitlines() if "who did this" in row]
    assert [(row["event"], row["actor"], row["job"]) for row in rows] == [
        ("session.opened", "users/admin", job), ("session.closed", "users/admin", job),
    ]  # fmt: skip

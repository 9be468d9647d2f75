"""The runner keeps its contract with the scheduler, and nothing of an attempt outlives it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import signal
import socket
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import nats
import pytest

from cairn._segments import writers
from tests.harness import servers
from tests.harness.code import CodeServer, archive, member, serve_code
from tests.harness.runner import TOKEN, Job, MakeJob, marked


@pytest.fixture(scope="module")
def bus(runner_bus: servers.Nats) -> servers.Nats:
    return runner_bus


def test_a_job_that_works(make_job: MakeJob, bus: servers.Nats) -> None:
    script = f"""
        echo "to stderr" >&2
        {sys.executable} -c 'import cairn; cairn.log({{"loss": 0.5}}, step=3); print(cairn.config.lr)'
        cat $CAIRN_TOKEN_FILE; echo " was the token"
        printf '10%%\\r20%%\\r100%%\\ncaf\\xff\\nno end'
        """
    job = make_job(script, setup="echo from setup", params={"lr": "0.1"})
    notices = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    job.launch["notify"] = str(job.folder.parent / "notify")
    notices.bind(job.launch["notify"])
    notices.setblocking(False)
    with notices:
        end = job.run()
        told = notices.recv(100)
    assert told == job.uid.encode()
    assert (end["exit_code"], end["signal"], end["phase"], end["oom"]) == (0, 0, "run", False)
    assert end["start_time"] <= end["end_time"]
    assert end["last_lines"][-1] == "no end"
    assert job.state()["phase"] == "ended"
    events = job.events(bus.url)
    assert events[-1].WhichOneof("event") == "attempt_drained"
    whose = {(event.team, event.run_uid, event.attempt) for event in events}
    assert whose == {("main", job.launch["run_uid"], 2)}
    assert [list(block.values) for event in events for block in event.points_logged.blocks] == [[0.5]]
    lines = job.lines(bus.url)
    out = [text for _, stream, text in lines if stream == "STDOUT"]
    assert out == ["from setup", "0.1", "******** was the token", "100%", "caf�", "no end"]
    assert (0, "STDERR", "to stderr") in lines
    said = [text for _, stream, text in lines if stream == "PLATFORM"]
    assert said[:2] == ["running setup", "starting the command"]
    assert said[-1].startswith("run ended with exit code 0 after")
    assert not writers(job.folder / "spool")


def test_the_command_gets_its_own_environment_and_nothing_of_the_platforms(make_job: MakeJob) -> None:
    envs = {"MINE": "yes", "CAIRN_RUN": "not mine"}
    job = make_job("env -0 > env; cat > stdin", envs=envs, gpu_ids=[[1, 3]])
    assert job.run()["exit_code"] == 0
    work = job.folder / "work"
    given = dict(line.split("=", 1) for line in (work / "env").read_text().split("\0") if line)
    assert given.items() >= {
        "MINE": "yes", "SKYPILOT_NODE_RANK": "0", "SKYPILOT_NUM_NODES": "1", "SKYPILOT_NODE_IPS": "127.0.0.1",
        "SKYPILOT_NUM_GPUS_PER_NODE": "2", "CUDA_VISIBLE_DEVICES": "1,3", "CAIRN_RUN": job.launch["run_uid"],
        "CAIRN_TEAM": "main", "CAIRN_ATTEMPT": "2", "CAIRN_ATTEMPT_UID": job.uid, "CAIRN_RANK": "0",
        "CAIRN_SPOOL": str(job.folder / "spool"), "CAIRN_TOKEN_FILE": str(job.folder / "token"),
        "PYTHONUNBUFFERED": "1",
    }.items()  # fmt: skip
    assert "CAIRN_SECRET" not in given
    assert (work / "stdin").read_bytes() == b""


def test_a_command_that_fails_is_told_with_its_last_lines(make_job: MakeJob) -> None:
    end = make_job("for n in $(seq 30); do echo line $n; done; exit 3").run()
    assert (end["exit_code"], end["signal"]) == (3, 0)
    assert end["last_lines"] == [f"line {n}" for n in range(11, 31)]


def test_a_command_that_does_not_exist(make_job: MakeJob) -> None:
    end = make_job("no-such-command --now").run()
    assert end["exit_code"] == 127
    assert "no-such-command" in end["last_lines"][-1]


def test_setup_that_fails_ends_the_attempt(make_job: MakeJob) -> None:
    job = make_job("touch started", setup="echo broken; exit 9")
    end = job.run()
    assert (end["phase"], end["exit_code"], end["last_lines"]) == ("setup", 9, ["broken"])
    assert end["start_time"] is None
    assert not (job.folder / "work" / "started").exists()


@pytest.mark.parametrize("script", ["exec sleep 100", "sleep 100; echo never"])
def test_a_rank_that_is_killed_is_told_as_signal_9(make_job: MakeJob, script: str) -> None:
    job = make_job(script)
    process = job.start()
    job.until(lambda: job.state().get("phase") == "running")
    rank = job.state()["pids"][0]

    def sleeper() -> int | None:
        for pid in marked(job.uid):
            with contextlib.suppress(OSError):
                if Path(f"/proc/{pid}/comm").read_text() == "sleep\n":
                    return pid
        return None

    job.until(sleeper)
    assert (sleeper() == rank) == script.startswith("exec")
    os.kill(sleeper() or 0, signal.SIGKILL)
    if not script.startswith("exec"):
        job.until(lambda: process.poll() is not None)
        assert job.end()["exit_code"] == 0, "bash went on to the echo"
        return
    assert process.wait(30) == 0
    end = job.end()
    assert (end["exit_code"], end["signal"], end["stopped"], end["oom"]) == (None, 9, False, False)


def test_a_signal_that_bash_tells_of_is_a_signal(make_job: MakeJob) -> None:
    end = make_job("(kill -9 $BASHPID); exit $?").run()
    assert (end["exit_code"], end["signal"]) == (137, 9)


def test_stopping_gives_the_command_time_to_end(make_job: MakeJob) -> None:
    job = make_job("trap 'echo saved; exit 0' TERM; echo ready; while true; do setsid -w sleep 0.05; done")
    process = job.start()
    job.until(lambda: job.state().get("phase") == "running")
    job.until(lambda: any(b"ready" in path.read_bytes() for path in (job.folder / "spool").rglob("*.seg")))
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    end = job.end()
    # bash says a word of its own where the signal meets it between two sleeps.
    told = [line for line in end["last_lines"] if line != "Terminated"]
    assert (end["stopped"], end["exit_code"], told) == (True, 0, ["ready", "saved"])


def test_a_command_that_will_not_end_is_killed_after_its_grace(make_job: MakeJob) -> None:
    job = make_job("trap '' TERM; echo ready; while true; do sleep 0.05; done", grace=0.3)
    process = job.start()
    job.until(lambda: job.state().get("phase") == "running")
    job.until(lambda: any(b"ready" in path.read_bytes() for path in (job.folder / "spool").rglob("*.seg")))
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    end = job.end()
    assert (end["stopped"], end["signal"]) == (True, 9)
    assert not marked(job.uid)


def test_max_runtime_ends_a_command(make_job: MakeJob) -> None:
    end = make_job("sleep 100", max_runtime=0.5).run()
    assert (end["timed_out"], end["stopped"], end["signal"]) == (True, False, 15)


def test_of_two_ranks_one_fails_and_the_other_is_ended(make_job: MakeJob, bus: servers.Nats) -> None:
    job = make_job(
        "echo rank $SKYPILOT_NODE_RANK of $SKYPILOT_NUM_NODES; [ $CAIRN_RANK = 0 ] && exec sleep 100; exit 5",
        num_nodes=2, gpu_ids=[[], []],
    )  # fmt: skip
    end = job.run()
    assert (end["rank"], end["exit_code"], end["stopped"]) == (1, 5, False)
    assert end["last_lines"] == ["rank 1 of 2"]
    texts = {(rank, text) for rank, stream, text in job.lines(bus.url) if stream == "STDOUT"}
    assert texts == {(0, "rank 0 of 2"), (1, "rank 1 of 2")}


def test_what_a_command_leaves_behind_is_ended_with_it(make_job: MakeJob) -> None:
    job = make_job("setsid sleep 100 & (setsid sh -c 'env -i sleep 101 &') ; echo $!; exit 0")
    assert job.run()["exit_code"] == 0
    assert not marked(job.uid)
    assert not [pid for pid in filter(str.isdigit, os.listdir("/proc")) if f"{job.folder}/work" == _cwd(pid)]


def _cwd(pid: str) -> str:
    with contextlib.suppress(OSError):
        return os.readlink(f"/proc/{pid}/cwd")
    return ""


def test_a_second_runner_does_nothing(make_job: MakeJob) -> None:
    job = make_job("echo once >> runs; sleep 100")
    first = job.start()
    job.until(lambda: (job.folder / "work" / "runs").exists())
    assert job.start().wait(30) == 0
    assert job.start("--drain").wait(30) == 0
    assert first.poll() is None
    first.send_signal(signal.SIGTERM)
    assert first.wait(30) == 0
    assert job.start().wait(30) == 0, "nor does one that comes after the end"
    assert (job.folder / "work" / "runs").read_text() == "once\n"


CHATTY = """
import cairn, time
for n in range(10**9):
    cairn.log({'loss': n}, step=n)
    print(n)
    time.sleep(0.001)
"""


def test_kill_9_of_the_runner_ends_its_ranks_and_a_drain_ships_the_rest(
    make_job: MakeJob, bus: servers.Nats
) -> None:
    job = make_job(f'(setsid sleep 100 &); {sys.executable} -c "{CHATTY}"; echo never')
    runner = job.start()
    job.until(lambda: any(b"loss" in path.read_bytes() for path in (job.folder / "spool").rglob("*.seg")))
    runner.kill()
    runner.wait()
    job.until(lambda: not marked(job.uid))
    assert not (job.folder / "end.json").exists()
    assert writers(job.folder / "spool")
    assert job.start("--drain").wait(60) == 0, job.log()
    assert not writers(job.folder / "spool")
    events = job.events(bus.url)
    assert events[-1].WhichOneof("event") == "attempt_drained"
    steps = {step for event in events for block in event.points_logged.blocks for step in block.steps}
    assert steps == set(range(len(steps)))
    assert steps


def test_the_end_does_not_wait_for_a_bus_that_is_away_and_a_drain_comes_later(
    make_job: MakeJob, tmp_path: Path
) -> None:
    away = servers.start_nats(tmp_path / "nats")
    away.kill()
    job = make_job("echo hello", bus_url=away.url)
    runner = job.start()
    job.until(lambda: (job.folder / "end.json").exists())
    assert runner.poll() is None, "it goes on shipping"
    runner.send_signal(signal.SIGTERM)
    assert runner.wait(30) == 0
    assert writers(job.folder / "spool")
    away.start()

    async def make() -> None:
        client = await nats.connect(away.url)
        await client.jetstream().add_stream(name="JOB", subjects=["cairn.v1.job.>"])
        await client.close()

    servers.run_apart(lambda: asyncio.run(make()))
    assert job.start("--drain").wait(60) == 0
    assert job.lines(away.url)[1][2] == "hello"
    assert job.events(away.url)[-1].WhichOneof("event") == "attempt_drained"
    away.stop()


@pytest.fixture
def code_server() -> Iterator[CodeServer]:
    yield from serve_code()


def with_code(job: Job, server: CodeServer, content: bytes) -> Job:
    server.archive = content
    digest = hashlib.sha256(content).hexdigest()
    job.launch |= {"url": server.url, "code": {"digest": digest, "size": len(content)}}
    return job


def test_code_is_fetched_through_errors_and_without_showing_the_token_to_the_store(
    make_job: MakeJob, code_server: CodeServer
) -> None:
    content = archive((member("src/go.sh", mode=0o755), b"#!/bin/sh\necho went"),
                      (member("link", tarfile.SYMTYPE, "src/go.sh"), b""))  # fmt: skip
    code_server.answers = [503, 500]
    job = with_code(make_job("./link"), code_server, content)
    assert job.run()["last_lines"] == ["went"]
    assert len(code_server.asked) == 4
    path, bearer = code_server.asked[0]
    assert path == f"/api/v1/teams/main/code/{job.launch['code']['digest']}"
    assert bearer == f"Bearer {TOKEN}"
    assert code_server.asked[-1] == ("/store?signature=1", None)


def test_code_that_is_not_there_is_told(make_job: MakeJob, code_server: CodeServer) -> None:
    code_server.answers = [404]
    end = with_code(make_job("true"), code_server, b"x").run()
    assert (end["phase"], end["exit_code"]) == ("code", None)
    assert "404" in end["message"]


@pytest.mark.parametrize(
    "content",
    [
        archive((member("../out"), b"x")),
        archive((member("/tmp/cairn-absolute"), b"x")),
        archive((member("out", tarfile.SYMTYPE, "../.."), b""), (member("out/evil"), b"x")),
        archive((member("out", tarfile.SYMTYPE, "/etc"), b"")),
        archive((member("out", tarfile.LNKTYPE, "../token"), b"")),
        archive((member("pipe", tarfile.FIFOTYPE), b"")),
        archive((member("whole"), b"x" * 10_000))[:-100],
        b"no archive at all",
    ],
    ids=["parent", "absolute", "through a link", "link out", "hard link", "pipe", "cut", "junk"],
)
def test_code_that_is_not_safe_or_not_whole_is_refused(
    make_job: MakeJob, code_server: CodeServer, content: bytes
) -> None:
    job = with_code(make_job("touch started"), code_server, content)
    end = job.run()
    assert (end["phase"], end["exit_code"]) == ("code", None)
    assert "archive" in end["message"]
    assert not (job.folder / "work" / "started").exists()
    assert not (job.folder / "out").exists()


def test_an_order_that_cannot_be_read_is_told(make_job: MakeJob) -> None:
    job = make_job("true")
    del job.launch["run_uid"]
    end = job.run()
    assert (end["exit_code"], end["phase"]) == (None, "code")
    assert "launch.json" in end["message"]


def test_a_flood_of_output_arrives_whole_and_long_lines_are_cut(make_job: MakeJob, bus: servers.Nats) -> None:
    job = make_job("seq 50000; head -c 200000 /dev/zero | tr '\\0' x; echo; echo behind >&2; echo last")
    assert job.run()["exit_code"] == 0
    out = [text for _, stream, text in job.lines(bus.url) if stream == "STDOUT"]
    assert out[:50000] == [str(n) for n in range(1, 50001)]
    assert out[50000].endswith("x ... [134,464 bytes cut]")
    assert len(out[50000]) == 64 * 1024 + len(" ... [134,464 bytes cut]")
    assert out[50001:] == ["last"]

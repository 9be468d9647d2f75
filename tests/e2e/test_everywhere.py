"""The same list of jobs on this machine and on a real Slurm, by way of the real SkyPilot: submitted at once,
as a person does, to a whole platform."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cairn.client import Client
from cairn_scheduler import processes
from tests.harness.platform import Platform
from tests.harness.slurm import CLUSTER, Slurm
from tests.harness.waiting import ended, until

# Slurm's own start, the first time, is the longest part.
pytestmark = pytest.mark.timeout(1500)

# The ranks meet as those of a training do: at the address that all are told.
MEET = """
import os, socket, time
rank, count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
at = (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
if rank == 0:
    with socket.create_server(at) as server:
        come = sorted(server.accept()[0].recv(16).decode() for _ in range(count - 1))
    print("rank 0 met", *come)
else:
    for _ in range(600):
        try:
            with socket.create_connection(at) as line:
                line.sendall(str(rank).encode())
            break
        except OSError:
            time.sleep(0.1)
    print("rank", rank, "said so")
"""
TRAIN = """
import os
import time
import cairn

print("on", os.uname().nodename, flush=True)
checkpoint = cairn.latest_checkpoint()
step = checkpoint.step if checkpoint else 0
print("began at", step, flush=True)
first = step
while step < 10_000:
    step += 1
    cairn.log({"loss": 1 / step}, step=step)
    if step % 5 == 0:
        open("weights.txt", "w").write(f"weights {step}")
        cairn.save_checkpoint("weights.txt", step=step)
        print("saved", step, flush=True)
    if first and step >= first + 5:
        break
    time.sleep(0.2)
print("done", flush=True)
"""


@dataclass
class Place:
    """Where the jobs run, and how a node of it dies."""

    platform: Platform
    infra: str
    gpu: str
    missing: str
    patience: float
    slurm: Slurm | None = None

    def task(self, run: str, *, more: str = "", resources: str = "", setup: str = "") -> str:
        """A task file for here."""
        text = f"resources: {{infra: {self.infra}, cpus: 0.1, memory: 0.1{resources}}}\n{more}"
        if self.slurm is not None:
            text = text.replace("cpus: 0.1, memory: 0.1", "cpus: 1, memory: 1")
        for name, script in (("setup", setup), ("run", run)):
            if script:
                text += f"{name}: |\n" + "".join(f"  {line}\n" for line in script.strip().splitlines())
        return text


@pytest.fixture(scope="module", params=["local", "slurm"])
def place(request: pytest.FixtureRequest, session_folder: Path) -> Iterator[Place]:
    """Each place with a platform before it."""
    if request.param == "slurm":
        slurm: Slurm = request.getfixturevalue("slurm_cluster")
        platform: Platform = request.getfixturevalue("slurm_platform")
        yield Place(platform, f"slurm/{CLUSTER}", "H100:1", "NOSUCH:1", 900.0, slurm)
        return
    folder = session_folder / "everywhere"
    folder.mkdir()
    platform = Platform(folder, CAIRN_LOCAL_CPUS="2", CAIRN_LOCAL_GPUS="2")
    platform.up()
    yield Place(platform, "local", "GPU:1", "GPU:16", 120.0)
    platform.down()


@pytest.fixture(scope="module")
def client(place: Place) -> Client:
    return place.platform.client()


@pytest.fixture(scope="module")
def ends(place: Place, client: Client) -> dict[str, dict[str, Any]]:
    """Seven jobs, submitted at once, each as it ended; the one that waits is stopped. A cluster of SkyPilot's
    costs a minute of work, so each job shows what one job can."""
    meet = f"python3 - <<'END'\n{MEET.strip()}\nEND"
    tasks = {
        "gpu": place.task(
            'echo on $(hostname)\necho "gpus $CUDA_VISIBLE_DEVICES"\n'
            "python -c 'import cairn; cairn.log({\"x\": 1.5}, step=1)'",
            resources=f", accelerators: '{place.gpu}'",
        ),
        "gang": place.task(
            f'echo "node $SKYPILOT_NODE_RANK of $SKYPILOT_NUM_NODES"\n{meet}', more="num_nodes: 2\n"
        ),
        "broken gang": place.task(
            "if [ $RANK = 1 ]; then echo last words; exit 7; fi\nsleep 600", more="num_nodes: 2\n"
        ),
        "setup": place.task("echo never", setup="echo preparing\nread -p 'sure? ' answer || exit 9"),
        "run": place.task("echo last\nexit 3"),
        "stopped": place.task("trap 'echo bye; exit 0' TERM\necho here\nwhile true; do sleep 0.1; done"),
        "children and torrent": place.task(
            "(trap '' TERM; sleep 600) &\necho 'left one'\n"
            "head -c 1G /dev/zero | tr '\\0' x\necho\necho after"
        ),
    }
    with ThreadPoolExecutor(len(tasks)) as threads:
        made = threads.map(lambda task: str(client.submit(task)["uid"]), tasks.values())
    uids = dict(zip(tasks, made, strict=True))
    until(lambda: client.job(uids["stopped"])["state"] == "RUNNING", place.patience)
    until(lambda: "here" in texts(client, uids["stopped"]), place.patience)
    client.cancel(uids["stopped"])
    return {name: ended(client, uid, place.patience) for name, uid in uids.items()}


def texts(client: Client, uid: str, *, rank: int | None = None) -> list[str]:
    return [line["text"] for line in client.logs(uid, rank=rank)["lines"]]


def complete(client: Client, job: dict[str, Any]) -> None:
    """Everything that its ranks wrote is here."""
    until(lambda: client.run(job["uid"]).get("complete"), 30)


def test_all_at_once_end_each_in_one_attempt(ends: dict[str, dict[str, Any]], client: Client) -> None:
    assert {name: len(job["attempts"]) for name, job in ends.items()} == dict.fromkeys(ends, 1)
    for job in ends.values():
        complete(client, job)


def test_children_that_stay_and_a_line_of_a_gigabyte_do_no_harm(
    ends: dict[str, dict[str, Any]], client: Client
) -> None:
    job = ends["children and torrent"]
    assert (job["state"], job["attempts"][0]["exit_code"]) == ("SUCCEEDED", 0), job
    assert {"left one", "after"} <= set(texts(client, job["uid"]))


def test_a_job_succeeds_and_its_metrics_are_here(
    ends: dict[str, dict[str, Any]], client: Client, place: Place
) -> None:
    job = ends["gpu"]
    assert job["state"] == "SUCCEEDED", job
    complete(client, job)
    assert client.run(job["uid"])["summary"]["x"]["last"] == 1.5
    (said,) = [text for text in texts(client, job["uid"]) if text.startswith("on ")]
    assert place.slurm is None or said in {f"on n{number}" for number in range(1, 5)}


def test_a_gpu_job_is_given_its_gpu(ends: dict[str, dict[str, Any]], client: Client) -> None:
    job = ends["gpu"]
    assert job["state"] == "SUCCEEDED", job
    assert job["spec"]["resources"]["gpus"] == 1
    complete(client, job)
    (said,) = [text for text in texts(client, job["uid"]) if text.startswith("gpus ")]
    assert said.removeprefix("gpus ").isdigit(), said


def test_a_gang_meets_and_each_rank_knows_its_number(ends: dict[str, dict[str, Any]], client: Client) -> None:
    job = ends["gang"]
    assert job["state"] == "SUCCEEDED", job
    complete(client, job)
    for rank, said in ((0, "rank 0 met 1"), (1, "rank 1 said so")):
        lines = texts(client, job["uid"], rank=rank)
        assert {f"node {rank} of 2", said} <= set(lines), lines


def test_one_dead_rank_ends_a_gang_with_its_cause(ends: dict[str, dict[str, Any]], client: Client) -> None:
    job = ends["broken gang"]
    (attempt,) = job["attempts"]
    assert (job["state"], job["cause"], attempt["exit_code"]) == ("FAILED", "CAUSE_USER_ERROR", 7), job
    assert "last words" in job["message"]
    complete(client, job)


def test_a_job_fails_in_a_setup_that_asks_and_its_command_never_runs(
    ends: dict[str, dict[str, Any]], client: Client
) -> None:
    job = ends["setup"]
    (attempt,) = job["attempts"]
    assert (job["state"], job["cause"], attempt["exit_code"]) == ("FAILED", "CAUSE_USER_ERROR", 9), job
    assert "setup" in job["message"]
    complete(client, job)
    assert "preparing" in texts(client, job["uid"])
    assert "never" not in texts(client, job["uid"])


def test_a_job_fails_in_its_command_with_its_last_line(
    ends: dict[str, dict[str, Any]], client: Client
) -> None:
    job = ends["run"]
    (attempt,) = job["attempts"]
    assert (job["state"], job["cause"], attempt["exit_code"]) == ("FAILED", "CAUSE_USER_ERROR", 3), job
    complete(client, job)
    assert "last" in texts(client, job["uid"])


def test_a_stopped_job_ends_gently(ends: dict[str, dict[str, Any]], client: Client) -> None:
    job = ends["stopped"]
    assert job["state"] == "CANCELLED", job
    complete(client, job)
    assert "bye" in texts(client, job["uid"])


def test_what_does_not_exist_is_refused_with_its_reason(place: Place, client: Client, tmp_path: Path) -> None:
    task = place.task("echo never", resources=f", accelerators: '{place.missing}'")
    (tmp_path / "task.yaml").write_text(task)
    done = place.platform.cairn("run", "task.yaml", "--json", cwd=tmp_path)
    if place.slurm is None:
        assert done.returncode == 1
        assert "16 GPUs" in done.stderr, done.stderr
        return
    job = ended(client, json.loads(done.stdout)["uid"], place.patience)
    assert (job["state"], len(job["attempts"])) == ("FAILED", 1), job
    assert place.missing.partition(":")[0] in job["message"]


def test_nothing_is_left_of_what_has_ended(ends: dict[str, dict[str, Any]], place: Place) -> None:
    attempts = [attempt["uid"] for job in ends.values() for attempt in job["attempts"]]
    if place.slurm is None:
        until(lambda: not any(processes.of_attempt(uid) for uid in attempts), 60)
        return
    slurm = place.slurm
    until(lambda: not any(slurm.allocations(uid) for uid in attempts), 120)


def test_a_job_whose_node_dies_goes_on_from_its_checkpoint(
    place: Place, client: Client, tmp_path: Path
) -> None:
    (tmp_path / "train.py").write_text(TRAIN)
    (tmp_path / "task.yaml").write_text(place.task("python train.py", more="workdir: .\n"))
    done = place.platform.cairn("run", "task.yaml", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    uid = json.loads(done.stdout)["uid"]
    until(lambda: client.checkpoints(uid), place.patience)
    (first,) = client.job(uid)["attempts"]
    with dead_node(place, first["uid"]):
        job = ended(client, uid, place.patience)
    assert job["state"] == "SUCCEEDED", job
    died, went_on = job["attempts"]
    assert died["cause"] in ("CAUSE_LOST", "CAUSE_INFRA"), died
    complete(client, job)
    assert went_on["exit_code"] == 0
    said = texts(client, uid)
    began = [int(text.removeprefix("began at ")) for text in said if text.startswith("began at ")]
    assert began[0] == 0
    # The lines of a node's last moment may die with it; what was committed may not. The one checkpoint that
    # the second attempt saved is the newest, so it went on from the one before: the last of the first.
    steps = sorted(version["step"] for version in client.checkpoints(uid))
    assert began[1:] == [steps[-2]], (began, steps)
    assert steps[-1] == steps[-2] + 5, steps
    assert "done" in said
    nodes = {text for text in said if text.startswith("on ")}
    assert len(nodes) == (1 if place.slurm is None else 2), nodes


@contextmanager
def dead_node(place: Place, attempt: str) -> Iterator[None]:
    """The node of an attempt is dead for the block: it takes along what runs on it, and runs nothing new."""
    if place.slurm is None:
        runner = processes.runner_of(attempt)
        assert runner is not None
        os.kill(runner.pid, signal.SIGKILL)
        yield
        return
    ((_, node),) = place.slurm.allocations(attempt)
    try:
        for state in ("down", "drain"):
            # What runs there dies with the first; without the second it would be taken in again at once.
            place.slurm.run("scontrol", "update", f"nodename={node}", f"state={state}", "reason=died")
        yield
    finally:
        place.slurm.run("scontrol", "update", f"nodename={node}", "state=resume")

"""Whatever a job does, its runner ends it in order, says what it was, and stays small."""

from __future__ import annotations

import json
import re
import signal
import sys
import time
from pathlib import Path

import pytest

from tests.harness import servers
from tests.harness.runner import Job, MakeJob, marked


def said(job: Job, bus: servers.Nats) -> list[str]:
    """The platform's own words."""
    return [text for _, stream, text in job.lines(bus.url) if stream == "PLATFORM"]


def status(pid: int, field: str) -> int:
    """A number of /proc/pid/status, in KiB."""
    found = re.search(rf"^{field}:\s+(\d+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return int(found[1]) if found else 0


def watched(job: Job, field: str = "VmHWM") -> tuple[int, float]:
    """Runs a job; the most memory of its runner in MiB, and how many seconds the job took."""
    process = job.start()
    most, began = 0, time.monotonic()
    while process.poll() is None:
        try:
            most = max(most, status(process.pid, field))
            process.wait(0.05)
        except (OSError, TimeoutError):
            continue
        except Exception as error:  # subprocess.TimeoutExpired
            if type(error).__name__ != "TimeoutExpired":
                raise
    assert process.returncode == 0, job.log()
    return most // 1024, time.monotonic() - began


def test_a_gigabyte_without_a_newline(make_job: MakeJob, runner_bus: servers.Nats) -> None:
    job = make_job("head -c 1G /dev/zero | tr '\\0' x; echo; echo after")
    most, _ = watched(job)
    assert job.end()["exit_code"] == 0
    assert most < 200
    lines = [text for _, stream, text in job.lines(runner_bus.url) if stream == "STDOUT"]
    assert lines[0].endswith(f"x ... [{2**30 - 64 * 1024:,} bytes cut]")
    assert lines[1:] == ["after"]


def test_a_flood_of_lines_is_cut_and_counted(make_job: MakeJob, runner_bus: servers.Nats) -> None:
    count = 1_000_000
    job = make_job(f"seq 1 {count} | sed 's/^/a line that is printed in a loop /'; echo last words")
    most, _ = watched(job)
    end = job.end()
    assert end["exit_code"] == 0
    assert end["last_lines"][-1] == "last words"
    assert most < 400
    found = job.lines(runner_bus.url)
    kept = sum(stream == "STDOUT" for _, stream, _ in found)
    left = [re.match(r"([\d,]+) lines \(.* MiB\) left out here", text) for text in said(job, runner_bus)]
    missing = sum(int(match[1].replace(",", "")) for match in left if match)
    assert 100_000 <= kept < count
    assert kept + missing == count + 1
    assert len([match for match in left if match]) < 60
    assert found[0][2] or found[1][2]


def test_garbage_is_not_lost_and_breaks_nothing(make_job: MakeJob, runner_bus: servers.Nats) -> None:
    job = make_job("head -c 3000000 /dev/urandom; printf '\\0\\n\\33[2J\\nend'; exit 4")
    end = job.run()
    assert end["exit_code"] == 4
    assert end["last_lines"][-1] == "end"
    assert job.lines(runner_bus.url)[-2][2] == "end"


def test_a_setup_that_asks_a_question_gets_no_answer_and_ends(make_job: MakeJob) -> None:
    job = make_job("echo never", setup=f"{sys.executable} -c 'input(\"Proceed? \")'")
    end = job.run()
    assert (end["phase"], end["exit_code"]) == ("setup", 1)
    assert "EOFError: EOF when reading a line" in end["last_lines"]


def test_children_left_behind_are_ended_and_named(make_job: MakeJob, runner_bus: servers.Nats) -> None:
    job = make_job("sleep 600 & (setsid sleep 601 &); echo done")
    assert job.run()["exit_code"] == 0
    assert marked(job.uid) == []
    assert "ended 2 processes that were left running: sleep" in said(job, runner_bus)


def test_a_job_that_kills_its_own_group(make_job: MakeJob) -> None:
    job = make_job("sleep 600 & kill -9 0; echo never")
    end = job.run()
    assert (end["signal"], end["stopped"]) == (9, False)
    assert marked(job.uid) == []


def test_a_command_that_ignores_sigterm_is_killed_after_its_grace(make_job: MakeJob) -> None:
    job = make_job("trap '' TERM; touch here; while true; do sleep 0.1; done", grace=0.5)
    process = job.start()
    job.until(lambda: (job.folder / "work" / "here").exists())
    process.terminate()
    assert process.wait(20) == 0
    assert (job.end()["stopped"], job.end()["signal"]) == (True, 9)


def test_a_child_of_a_script_has_its_grace_when_bash_is_gone(make_job: MakeJob) -> None:
    child = (
        "import pathlib, signal, time; stop = []; signal.signal(15, lambda *a: stop.append(1));"
        "pathlib.Path('ready').touch();\nwhile not stop: time.sleep(0.02)\n"
        "time.sleep(0.5); pathlib.Path('saved').touch()"
    )
    job = make_job(f'echo begin\n{sys.executable} -c "{child}"\necho next')
    process = job.start()
    work = job.folder / "work"
    job.until(lambda: (work / "ready").exists())
    process.terminate()
    assert process.wait(20) == 0
    assert job.end()["stopped"]
    assert (work / "saved").exists()
    assert "next" not in job.end()["last_lines"]


def test_the_first_rank_to_die_is_told_and_the_others_with_it(make_job: MakeJob) -> None:
    script = """
        if [ $CAIRN_RANK = 1 ]; then sleep 0.3; echo "torch.OutOfMemoryError: CUDA out of memory."; exit 1; fi
        trap 'echo "gloo/transport/tcp/pair.cc: Connection closed by peer"; exit 7' TERM
        while true; do sleep 0.05; done
        """
    job = make_job(script, num_nodes=3)
    end = job.run()
    assert (end["rank"], end["exit_code"], end["ranks"]) == (1, 1, 3)
    assert sorted(other["rank"] for other in end["others"]) == [0, 2]
    assert all(other["asked"] and "closed by peer" in other["last_lines"][-1] for other in end["others"])


def test_the_end_is_told_on_a_full_disk(make_job: MakeJob, runner_bus: servers.Nats) -> None:
    """/dev/full stands for the disk: what the runner writes there gets ENOSPC."""
    job = make_job("ln -s /dev/full ../.end.json.new; echo filled; exit 3")
    process = job.start()
    job.until(lambda: (job.folder / ".end.json.new").is_symlink())
    job.until(lambda: not (job.folder / ".room").exists())
    assert process.poll() is None
    (job.folder / ".end.json.new").unlink()
    assert process.wait(30) == 0
    assert (job.end()["exit_code"], job.end()["last_lines"]) == (3, ["filled"])


def test_times_do_not_jump_when_the_clock_is_wrong(make_job: MakeJob) -> None:
    began = time.time()
    end = make_job("sleep 0.2").run()
    assert began <= end["start_time"] <= end["end_time"] <= time.time()
    assert end["end_time"] - end["start_time"] >= 0.2


def test_system_metrics_come_by_themselves(make_job: MakeJob, runner_bus: servers.Nats) -> None:
    burn = "import time; b = bytearray(200 << 20); end = time.time() + 8\nwhile time.time() < end: pass"
    job = make_job(f'{sys.executable} -c "{burn}"')
    assert job.run()["exit_code"] == 0
    points = [
        dict(zip(block.keys, block.values, strict=False))
        for event in job.events(runner_bus.url)
        for block in event.points_logged.blocks
    ]
    assert points
    assert {key.split("/")[0] for key in points[0]} == {"system"}
    assert 0 < points[0]["system/cpu"] < 4
    assert 0.19 < points[0]["system/memory"] < 1
    assert 0 < points[0]["system/memory_percent"] <= 100
    end = job.end()
    assert 200 << 20 <= end["memory_peak"] < end["memory_limit"]


@pytest.mark.parametrize("gpus", [0, 1, 2])
def test_ranks_are_told_who_they_are(make_job: MakeJob, gpus: int) -> None:
    job = make_job(
        "env -0 > env$SKYPILOT_NODE_RANK", num_nodes=2,
        gpu_ids=[list(range(gpus)), list(range(gpus, 2 * gpus))],
    )  # fmt: skip
    assert job.run()["exit_code"] == 0
    files = [job.folder / "work" / f"env{rank}" for rank in (0, 1)]
    ranks = [dict(line.split("=", 1) for line in file.read_text().split("\0") if line) for file in files]
    assert {rank["MASTER_ADDR"] for rank in ranks} == {"127.0.0.1"}
    assert len({rank["MASTER_PORT"] for rank in ranks}) == 1
    assert [rank["NODE_RANK"] for rank in ranks] == ["0", "1"]
    numbers = [(rank.get("RANK"), rank.get("WORLD_SIZE"), rank.get("LOCAL_RANK")) for rank in ranks]
    assert numbers == ([("0", "2", "0"), ("1", "2", "0")] if gpus < 2 else [(None, None, None)] * 2)


TORCH = """
import os, signal, torch, torch.distributed as dist
dist.init_process_group("gloo")
value = torch.tensor([float(dist.get_rank() + 1)])
dist.all_reduce(value)
print("sum", int(value), "of", dist.get_world_size(), "ranks", flush=True)
if dist.get_rank() == 1: os.kill(os.getpid(), signal.SIGKILL)
dist.all_reduce(value)
"""


def test_two_ranks_of_torch_meet_and_the_one_that_dies_is_the_cause(
    make_job: MakeJob, runner_bus: servers.Nats
) -> None:
    """The real torch.distributed: rank 1 is killed behind a collective, the next one fails in rank 0."""
    pytest.importorskip("torch")
    script = f"cat > torch$CAIRN_RANK.py <<'X'\n{TORCH}\nX\nexec {sys.executable} torch$CAIRN_RANK.py"
    job = make_job(script, num_nodes=2)
    end = job.run(180)
    sums = {(rank, text) for rank, _, text in job.lines(runner_bus.url) if text.startswith("sum")}
    assert sums == {(0, "sum 3 of 2 ranks"), (1, "sum 3 of 2 ranks")}
    assert (end["rank"], end["signal"]) == (1, signal.SIGKILL)


def test_json_of_an_end_has_no_more_than_a_scheduler_reads(make_job: MakeJob) -> None:
    script = "for i in $(seq 40); do head -c 70000 /dev/zero | tr '\\0' y; echo; done; exit 1"
    job = make_job(script, num_nodes=8)
    end = job.run()
    assert len(json.dumps(end)) < 2 * 2**20
    assert len(end["others"]) <= 7

"""What a run without a job tells of what is around it, and of params that change."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import cairn
from cairn import _frames, _run
from cairn._capture import Capture, packages, visible
from cairn._segments import read_all, writers


@pytest.fixture(autouse=True)
def somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A working directory without a server, and no run left over."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CAIRN_CONFIG", str(tmp_path / "none.json"))
    for name in ("CAIRN_URL", "CAIRN_TOKEN", "CAIRN_SPOOL", "CAIRN_RUN", "CAIRN_PARAMS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(_run, "_current", None)
    monkeypatch.setattr(_run, "_watching", True)
    yield
    cairn.finish()


def told(run: cairn.Run) -> list[dict[str, Any]]:
    """What `run_updated` said, in order."""
    frames = [frame.payload for folder in writers(run.spool) for _, frame in read_all(folder)]
    events = [json.loads(payload[1:]) for payload in frames if payload[0] == _frames.JSON]
    return [event["value"] for event in events if event["arm"] == "run_updated"]


def facts(run: cairn.Run) -> dict[str, str]:
    return {name: text for each in told(run) for name, text in each.get("environment", {}).items()}


def until(fact: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 30
    while not (found := fact()):
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)
    return found


def git(*arguments: str) -> None:
    own = ("-c", "user.name=t", "-c", "user.email=t@example.com")
    subprocess.run(["git", *own, *arguments], check=True, capture_output=True)


def test_a_run_tells_its_commit_what_was_not_committed_and_its_packages(tmp_path: Path) -> None:
    git("init", "-q", "-b", "work")
    (tmp_path / "train.py").write_text("lr = 1\n")
    git("add", "train.py")
    git("commit", "-q", "-m", "first")
    (tmp_path / "train.py").write_text("lr = 2\n")
    with cairn.init() as run:
        pass
    found = facts(run)
    assert (len(found["git_commit"]), found["git_branch"]) == (40, "work")
    assert "-lr = 1\n+lr = 2" in found["git_diff"]
    assert any(line.startswith("numpy==") for line in found["packages"].splitlines())


def test_a_large_diff_is_cut_and_still_recorded(tmp_path: Path) -> None:
    git("init", "-q")
    (tmp_path / "data.txt").write_text("")
    git("add", "data.txt")
    git("commit", "-q", "-m", "first")
    (tmp_path / "data.txt").write_text("\N{SNOWMAN}" * 200_000 + "\n")
    with cairn.init() as run:
        pass
    assert 50_000 < len(facts(run)["git_diff"].encode()) < 70_000


def test_capture_is_left_out_where_it_is_not_wanted_and_in_a_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with cairn.init(capture=False) as run:
        pass
    assert facts(run) == {}
    monkeypatch.setenv("CAIRN_SPOOL", str(tmp_path / "spool"))
    monkeypatch.setenv("CAIRN_RUN", "r")
    assert cairn.init()._capture is None


def test_a_slow_git_delays_neither_the_beginning_nor_for_long_the_end(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "bin").mkdir()
    slow = tmp_path / "bin" / "git"
    slow.write_text("#!/bin/sh\nexec sleep 5\n")
    slow.chmod(0o755)
    monkeypatch.setenv("PATH", f"{slow.parent}:{os.environ['PATH']}")
    run = cairn.init(capture=False)
    capture = Capture(run._writer, run.directory, patience=0.1)
    capture.start()
    capture.stop()
    assert capture._thread.is_alive(), "it was not waited for"
    capture._thread.join()
    assert told(run) == [], "nothing is written behind a run's end"


def test_what_a_run_uses_of_its_machine_is_there_and_apart() -> None:
    run = cairn.init(capture=False)
    run._capture = Capture(run._writer, run.directory, every=0.05)
    run._capture.start()
    cairn.log({"loss": 1.0})
    until(lambda: run.history("system/cpu"))
    assert run.history("system/memory")[0].value > 0
    cairn.log({"loss": 0.5})
    assert [point.step for point in run.history("loss")] == [0, 1], "its steps are its own"
    cairn.finish()
    (read,) = cairn.local_runs()
    assert read.summary() == {"loss": 0.5}


@pytest.mark.parametrize(
    ("asked", "seen"),
    [(None, [0, 1, 2]), ("", []), ("2,0", [2, 0]), ("-1", []), ("7", []), ("GPU-ab", [0, 1, 2])],
)
def test_gpus_are_those_that_the_process_may_use(asked: str | None, seen: list[int]) -> None:
    assert visible(asked, [0, 1, 2]) == seen


def test_packages_come_from_the_names_of_folders(tmp_path: Path) -> None:
    for name in ("Zeta-1.0.dist-info", "al_pha-2.1.post1.dist-info", "old-0.3-py3.9.egg-info", "notes"):
        (tmp_path / name).mkdir()
    found = packages([str(tmp_path), "/nowhere"])["packages"].splitlines()
    assert found[0] == "al_pha==2.1.post1"
    assert found[-1] == "Zeta==1.0"
    assert packages(["/nowhere"]) == {}


def test_params_that_are_set_in_any_way_are_recorded() -> None:
    run = cairn.init(params={"lr": 1.0}, capture=False)
    cairn.config.lr = 0.5
    cairn.config["depth"] = 3
    cairn.config.update({"a": Path("/x")}, b=2)
    cairn.config.setdefault("lr", 7)
    cairn.config.setdefault("c", 8)
    config = cairn.config
    config |= {"d": 9}
    assert cairn.config == {"lr": 0.5, "depth": 3, "a": Path("/x"), "b": 2, "c": 8, "d": 9}
    merged: dict[str, Any] = {}
    for each in told(run):
        merged |= each["params"]
    assert merged == {"lr": 0.5, "depth": 3, "a": "/x", "b": 2, "c": 8, "d": 9}
    cairn.finish()
    (read,) = cairn.local_runs()
    assert read.params == merged


def test_a_param_that_is_set_before_the_run_begins_it() -> None:
    cairn.config.lr = 0.5
    assert cairn.current_run().config == {"lr": 0.5}


def test_a_copy_of_the_params_belongs_to_no_run() -> None:
    run = cairn.init(params={"net": {"depth": 3}}, capture=False)
    copied = copy.deepcopy(cairn.config)
    copied.lr = 1
    assert copied.net == {"depth": 3}
    assert "lr" not in cairn.config
    assert told(run) == []


def test_a_script_with_capture_ends_at_once_and_quietly(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", "import cairn; cairn.log({'a': 1}); print('trained')"],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "trained\n", "")


FORKING = """
import os, sys, threading
from pathlib import Path
from cairn._imports import importing
Path("slow.py").write_text("import __main__, time; __main__.begun.set(); time.sleep(0.3); done = True")
sys.path.insert(0, ".")
begun = threading.Event()
def load():
    with importing:
        import slow
thread = threading.Thread(target=load)
thread.start()
begun.wait()
child = os.fork()
if not child:
    import slow
    os._exit(0 if slow.done else 1)
thread.join()
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_child_that_is_forked_during_an_import_of_ours_can_import(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", FORKING], cwd=tmp_path, check=True, timeout=60)

"""The shelf of environments: built once, kept while used, bounded, and never half."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from cairn._runner.shelf import Shelf, Stopped

SPAWN = multiprocessing.get_context("spawn")


def shelf(root: Path, most: int = 10**9) -> Shelf:
    return Shelf(root / "shelf", most_bytes=most, pause=lambda seconds: bool(time.sleep(seconds)))


def building(size: int, built: list[str] | None = None) -> Callable[[Path], Mapping[str, Any]]:
    def build(path: Path) -> Mapping[str, Any]:
        path.mkdir()
        (path / "file").write_bytes(os.urandom(size))
        if built is not None:
            built.append(path.name)
        return {"size": size}

    return build


def nobody() -> None:
    raise AssertionError("nobody was to be waited for")


def test_what_is_there_is_used_again(tmp_path: Path) -> None:
    built: list[str] = []
    first = shelf(tmp_path).take("a", building(10, built), waiting=nobody)
    second = shelf(tmp_path).take("a", building(10, built), waiting=nobody)
    assert (first.built, second.built, built) == (True, False, ["a"])
    assert first.path == second.path
    assert second.facts["size"] == 10
    shelf(tmp_path).take("b", building(10, built), waiting=nobody)
    assert built == ["a", "b"]


def test_of_many_at_once_one_builds_and_the_others_wait(tmp_path: Path) -> None:
    built: list[str] = []
    waited: list[int] = []
    begun, go_on = threading.Event(), threading.Event()

    def build(path: Path) -> Mapping[str, Any]:
        begun.set()
        assert go_on.wait(30)
        return building(10, built)(path)

    def take(number: int) -> None:
        shelf(tmp_path).take("a", build, waiting=lambda: waited.append(number))

    threads = [threading.Thread(target=take, args=[number]) for number in range(6)]
    threads[0].start()
    assert begun.wait(30)
    for thread in threads[1:]:
        thread.start()
    deadline = time.monotonic() + 30
    while len(waited) < 5:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    go_on.set()
    for thread in threads:
        thread.join(30)
    assert built == ["a"]
    assert sorted(waited) == [1, 2, 3, 4, 5], "each was told once"


def test_one_that_waits_can_be_stopped(tmp_path: Path) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def build(path: Path) -> Mapping[str, Any]:
        begun.set()
        assert go_on.wait(30)
        return building(10)(path)

    thread = threading.Thread(target=lambda: shelf(tmp_path).take("a", build, waiting=nobody))
    thread.start()
    assert begun.wait(30)
    stopped = Shelf(tmp_path / "shelf", pause=lambda seconds: True)
    with pytest.raises(Stopped):
        stopped.take("a", building(1), waiting=lambda: None)
    go_on.set()
    thread.join(30)


def test_a_build_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def broken(path: Path) -> Mapping[str, Any]:
        path.mkdir()
        (path / "half").touch()
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        shelf(tmp_path).take("a", broken, waiting=nobody)
    assert not (tmp_path / "shelf" / "a").exists()
    assert shelf(tmp_path).take("a", building(10), waiting=nobody).built


def _build_and_be_killed(root: Path) -> None:
    def build(path: Path) -> Mapping[str, Any]:
        path.mkdir()
        (path / "half").touch()
        os.kill(os.getpid(), signal.SIGKILL)
        return {}

    shelf(root).take("a", build, waiting=nobody)


def test_a_killed_build_is_built_anew(tmp_path: Path) -> None:
    process = SPAWN.Process(target=_build_and_be_killed, args=[tmp_path])
    process.start()
    process.join(30)
    assert process.exitcode == -signal.SIGKILL
    assert (tmp_path / "shelf" / "a" / "half").exists()
    held = shelf(tmp_path).take("a", building(10), waiting=nobody)
    assert held.built
    assert not (held.path / "half").exists()


def test_the_longest_unused_goes_first_and_what_is_used_stays(tmp_path: Path) -> None:
    root = tmp_path / "shelf"
    small = shelf(tmp_path, most=350_000)
    held = {name: small.take(name, building(100_000), waiting=nobody) for name in "abc"}
    held["a"].release()
    held["b"].release()
    for age, name in enumerate("cab"):  # c is the oldest, but used
        os.utime(root / name / "cairn-complete.json", (1000 + age, 1000 + age))
    small.take("d", building(100_000), waiting=nobody)
    assert sorted(path.name for path in root.iterdir() if path.is_dir()) == ["b", "c", "d"]
    held["c"].release()
    small.take("e", building(100_000), waiting=nobody)
    assert sorted(path.name for path in root.iterdir() if path.is_dir()) == ["b", "d", "e"]
    assert small.take("a", building(100_000), waiting=nobody).built


def test_what_is_used_stays_beyond_any_limit(tmp_path: Path) -> None:
    tiny = shelf(tmp_path, most=1)
    held = [tiny.take(name, building(100_000), waiting=nobody) for name in "abc"]
    assert all(one.path.exists() for one in held)
    for one in held:
        one.release()
    tiny.prune()
    assert not [path for path in (tmp_path / "shelf").iterdir() if path.is_dir()]

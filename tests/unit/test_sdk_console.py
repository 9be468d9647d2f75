"""What a process and its children print is recorded, passed on byte for byte, and slows no training."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairn import _frames
from cairn._frames import LineRecord
from cairn._marker import Marker
from cairn._segments import read_all, writers

PREPARED = """
import ctypes, os, subprocess, sys, time
import cairn
run = cairn.init(console="fd", capture=False)
"""


def program(script: str) -> list[str]:
    return [sys.executable, "-c", PREPARED + textwrap.dedent(script)]


def environment(folder: Path, **more: str) -> dict[str, str]:
    return {**os.environ, "CAIRN_CONFIG": str(folder / "none.json"), **more}


def recorded(folder: Path) -> list[LineRecord]:
    """The lines of all runs here, by stream and number."""
    found = [
        _frames.parse_line(frame.payload)
        for spool in folder.glob(".cairn/runs/*/spool")
        for writer in writers(spool)
        for _, frame in read_all(writer)
        if frame.payload[0] == _frames.LINE
    ]
    return sorted(found, key=lambda line: line.number)


def texts(folder: Path, stream: int = 1) -> list[str]:
    return [line.text for line in recorded(folder) if line.stream == stream]


def until(fact: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not fact():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.02)


def run(folder: Path, script: str, **more: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        program(script),
        cwd=folder,
        env=environment(folder, **more),
        capture_output=True,
        timeout=60,
        check=True,
    )


def test_everything_that_is_printed_is_recorded_and_passed_on(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        r"""
        print("from python")
        cairn.log("by log")
        subprocess.run("echo from a child; echo its error >&2", shell=True, check=True)
        ctypes.CDLL(None).printf(b"from C, in a buffer of its own\n")
        os.write(2, b"10%\r20%\r100%\n")
        print("caf\xe9", flush=True)
        print("the key is", os.environ["MY_API_KEY"], "and", os.environ["HIDDEN"], "not", os.environ["SHOWN"])
        sys.stdout.write("no end")
        cairn.finish()
        print("\nnot of the run")
        """,
        MY_API_KEY="sk-0123456789", HIDDEN="hunter22", SHOWN="plain-text", CAIRN_SECRETS="HIDDEN",
        PYTHONIOENCODING="utf-8",
    )  # fmt: skip
    out = texts(tmp_path)
    assert sorted(out) == sorted([
        "from python", "by log", "from a child", "from C, in a buffer of its own", "café",
        "the key is ******** and ******** not plain-text", "no end",
    ])  # fmt: skip
    assert out.index("from python") < out.index("from a child") < out.index("café") < out.index("no end")
    assert texts(tmp_path, 2) == ["its error", "100%"]
    assert done.stderr == b"its error\n10%\r20%\r100%\n"
    assert done.stdout.endswith(b"no end\nnot of the run\n")
    assert b"\0" not in done.stdout


def test_code_that_holds_the_interpreter_while_it_prints_much_is_not_stuck(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        """
        line = b"x" * 99 + b"\\n"
        data = line * 40_000
        assert ctypes.PyDLL(None).write(1, data, len(data)) == len(data)
        """,
    )
    assert len(done.stdout) == 4_000_000
    assert texts(tmp_path) == ["x" * 99] * 40_000


def test_what_was_printed_before_a_kill_is_recorded(tmp_path: Path) -> None:
    with subprocess.Popen(
        program("print('last words', flush=True); os.kill(os.getpid(), 9)"),
        cwd=tmp_path, env=environment(tmp_path), stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.read() == b"last words\n"
    assert process.returncode == -signal.SIGKILL
    until(lambda: texts(tmp_path) == ["last words"])


def test_training_goes_on_when_the_process_that_records_is_killed(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        """
        print("before", flush=True)
        os.kill(run._console._process.pid, 9)
        run._console._done.wait(20)
        for number in range(5_000):
            print("after", number)
        subprocess.run(["echo", "child"], check=True)
        """,
    )
    assert done.stdout.count(b"after") == 5_000
    assert done.stdout.endswith(b"child\n")
    assert done.stderr.count(b"no longer recorded") == 1


def test_a_child_that_lives_on_is_still_heard(tmp_path: Path) -> None:
    done = run(tmp_path, "subprocess.Popen(['sh', '-c', 'sleep 0.5; echo later']); print('first')")
    assert done.stdout == b"first\nlater\n"
    assert texts(tmp_path) == ["first"]


def test_a_terminal_stays_one(tmp_path: Path) -> None:
    master, slave = pty.openpty()
    script = "print('a terminal' if os.isatty(1) else 'none', os.get_terminal_size(1).columns)"
    with subprocess.Popen(
        program(script), cwd=tmp_path, env=environment(tmp_path), stdout=slave, stderr=slave, stdin=slave
    ):
        os.close(slave)
        shown = b""
        while b"\n" not in shown:
            shown += os.read(master, 1000)
    os.close(master)
    assert shown.startswith(b"a terminal ")
    assert texts(tmp_path) == [shown.decode().strip()]


def test_a_wrong_word_is_one_warning(tmp_path: Path) -> None:
    script = "import cairn; cairn.init(console='everything', capture=False); print('fine')"
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=environment(tmp_path),
        capture_output=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (0, b"fine\n")
    assert done.stderr.count(b"console='everything'") == 1


@given(st.binary(max_size=40), st.binary(max_size=40), st.lists(st.integers(0, 60), max_size=6))
def test_a_mark_is_found_in_whatever_pieces_it_comes(before: bytes, after: bytes, cuts: list[int]) -> None:
    mark = b"\0mark\0"
    data = before.replace(mark, b"") + mark + after
    marker = Marker(mark)
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    first, second = b"", b""
    for start, end in pairwise(places):
        one, _, other = marker.split(data[start:end])
        first, second = first + one, second + other
    assert (first, second) == data.partition(mark)[::2]
    assert not marker.rest()


@pytest.mark.parametrize("data", [b"", b"\0", b"\0mar", b"plain"])
def test_what_looks_like_a_mark_and_is_none_is_not_lost(data: bytes) -> None:
    marker = Marker(b"\0mark\0")
    assert marker.split(data)[0] + marker.rest() == data

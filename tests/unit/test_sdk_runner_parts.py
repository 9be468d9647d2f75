"""The runner's parts that need no process: who ranks are, how much is recorded, where weight lies."""

from __future__ import annotations

import itertools
import os
import socket

import pytest

from cairn._cli.records import merge
from cairn._ids import new_uid
from cairn._runner import rendezvous
from cairn._runner.console import BURST_LINES, LINES_A_SECOND, Budget, LineSplitter
from cairn._runner.gpu import Gpus
from cairn._runner.memory import memory_limit
from cairn._runner.system import Processes
from cairn._weigh import heaviest


def test_a_job_of_one_node_is_told_no_numbers() -> None:
    alone = rendezvous.variables(rank=0, ranks=1, address="127.0.0.1", port=20000, gpus=1)
    assert alone == {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "20000", "NODE_RANK": "0"}


def test_with_several_gpus_a_launcher_is_told_and_numbers_processes_itself() -> None:
    told = rendezvous.variables(rank=1, ranks=4, address="10.0.0.1", port=20001, gpus=8)
    assert told["PET_NNODES"] == "4"
    assert told["PET_NODE_RANK"] == told["NODE_RANK"] == "1"
    assert not {"RANK", "WORLD_SIZE", "LOCAL_RANK"} & told.keys()


def test_a_port_is_agreed_on_and_another_where_it_is_taken() -> None:
    uid = new_uid()
    port = rendezvous.agreed_port(uid)
    assert 20000 <= port < 30000
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("", port))
        taken.listen()
        assert rendezvous.free_port(uid) not in (0, port)
    assert rendezvous.free_port(uid) == port


def test_what_is_left_out_comes_in_few_pieces() -> None:
    budget = Budget()
    assert budget.take(BURST_LINES, 1, 10.0)
    passed = [budget.take(100, 1, 10.0 + n / 1000) for n in range(1, 3001)]
    changes = sum(one != two for one, two in itertools.pairwise(passed))
    assert changes <= 2 * 4
    assert sum(passed) * 100 <= 4 * LINES_A_SECOND


def test_nothing_passes_while_the_spool_is_full() -> None:
    room = [True]
    budget = Budget(room=lambda: room[0])
    assert budget.take(1, 1, 1.0)
    room[0] = False
    assert not budget.take(1, 1, 3.0)
    room[0] = True
    assert budget.take(1, 1, 5.0)


def test_a_line_without_end_is_cut_and_the_rest_is_counted() -> None:
    splitter = LineSplitter()
    for _ in range(100):
        assert splitter.feed(b"x" * 65536, 0.0) == []
    (line,) = splitter.feed(b"tail\nnext", 0.0)
    assert line == "x" * 65536 + f" ... [{99 * 65536 + 4:,} bytes cut]"
    assert splitter.end() == ["next"]


def test_processes_are_found_by_session_and_by_descent() -> None:
    me = os.getpid()
    (use,) = Processes().use([os.getsid(0)])
    (own,) = Processes().use([me])
    assert 0 < own.memory <= memory_limit()
    assert own.cpu > 0
    assert use.cpu >= 0


def test_without_a_driver_there_are_no_gpus() -> None:
    if os.path.exists("/dev/nvidiactl"):
        pytest.skip("there are GPUs here")
    assert Gpus().sample() == {}


def test_the_heaviest_parts_are_told_as_deep_as_they_reach() -> None:
    sizes = {f"a/b/c/{n}": 10 for n in range(100)} | {"a/x": 1, "m.py": 5, "d/big": 5000}
    parts = heaviest(sizes, most_files=50, most_bytes=1000, shown=3)
    assert [(part.path, part.files, part.chosen) for part in parts] == [
        ("d/big", 1, True), ("a/b/c/", 100, True), ("m.py", 1, False),
    ]  # fmt: skip


def test_a_running_job_that_says_nothing_is_silent() -> None:
    job = {"uid": "u", "state": "RUNNING", "attempts": [{}], "start_time": "2026-01-01T00:00:00Z"}
    seen = {"uid": "u", "last_seen_time": "2026-01-01T00:00:05Z"}
    silent = merge(job, seen).silent
    assert silent is not None
    assert silent > 1000
    assert merge({**job, "state": "SUCCEEDED"}, seen).silent is None
    assert merge(job, {"uid": "u"}).silent is None


def test_what_the_machine_did_is_no_metric_of_the_run() -> None:
    summary = {"system/cpu": {"last": 1.0}, "loss": {"last": 0.5}}
    assert merge(None, {"uid": "u", "summary": summary}).metrics == {"loss": 0.5}

"""The spool keeps what it was given: through cuts, forks, threads, kills and a disk that is full."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cairn import _frames
from cairn._batch import messages
from cairn._frames import Frame, LineRecord
from cairn._segments import SegmentReader, read_all, segment_path, segments, writers
from cairn._spool import Writer
from cairn.job.v1 import events_pb2


def rows_of(folder: Path) -> list[tuple[int, dict[str, float]]]:
    found = []
    for reader, frame in read_all(folder):
        if frame.payload[0] == _frames.POINT:
            _, shape, _, step = _frames.POINT_HEAD.unpack_from(frame.payload)
            keys = reader.shapes[shape]
            values = struct.unpack_from(f"<{len(keys)}d", frame.payload, _frames.POINT_HEAD.size)
            found.append((step, dict(zip(keys, values, strict=True))))
    return found


def put(writer: Writer, step: int, **values: float) -> None:
    writer.points(tuple(values), values.values(), step, 1.0)


def test_of_a_segment_cut_at_any_byte_every_whole_record_is_read_and_reading_goes_on(tmp_path: Path) -> None:
    writer = Writer(tmp_path)
    put(writer, 0, a=1.0)
    writer.lines([LineRecord(1.0, 1, 0, 1, "häßlich"), LineRecord(1.0, 2, 0, 2, "")])
    put(writer, 1, a=2.0, b=3.0)
    writer.json("run_updated", {"tags": ["x"]})
    writer.close()
    whole = segment_path(writer.folder, 1).read_bytes()
    frames = SegmentReader(segment_path(writer.folder, 1)).read()
    assert frames[-1].end == len(whole)
    torn = tmp_path / "torn.seg"
    for cut in range(len(whole) + 1):
        torn.write_bytes(whole[:cut])
        reader = SegmentReader(torn)
        assert reader.read() == [frame for frame in frames if frame.end <= cut]
        torn.write_bytes(whole)
        assert reader.read() == [frame for frame in frames if frame.end > cut]


@given(damage=st.integers(min_value=0, max_value=10_000), bit=st.integers(0, 7))
def test_a_damaged_record_is_never_read_as_another(damage: int, bit: int) -> None:
    data = b"".join(_frames.frame(bytes([_frames.EVENT]) + bytes([n]) * n) for n in range(1, 30))
    frames = list(_frames.split_frames(data, 0))
    place = damage % len(data)
    changed = data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :]
    assert list(_frames.split_frames(changed, 0)) == [frame for frame in frames if frame.end <= place]


def test_zeros_that_a_power_cut_left_are_no_records() -> None:
    assert list(_frames.split_frames(bytes(64), 0)) == []
    assert list(_frames.split_rows(bytes(64), 0)) == []


@settings(max_examples=80)
@given(
    blocks=st.lists(st.tuples(st.integers(0, 3), st.integers(1, 90)), min_size=1, max_size=8),
    cut=st.integers(0, 400), damage=st.integers(0, 2**30), bit=st.none() | st.integers(0, 7),
)  # fmt: skip
def test_points_read_together_are_those_read_one_by_one(
    blocks: list[tuple[int, int]], cut: int, damage: int, bit: int | None
) -> None:
    shapes = [_frames.Shape(0, ("a",)), _frames.Shape(1, ("b",)), _frames.Shape(2, ("c", "d"))]
    line = _frames.line_frame(LineRecord(0.0, 1, 0, 1, "x"))
    parts = [
        line if kind == 3 else shapes[kind].row([float(n)] * len(shapes[kind].keys), n, n / 2)
        for kind, count in blocks
        for n in range(count)
    ]
    data = bytearray(b"".join(parts))
    del data[max(1, len(data) - cut) :]
    if bit is not None:
        data[damage % len(data)] ^= 1 << bit
    found: list[Frame] = []
    for record in _frames.split_rows(bytes(data), 100):
        if isinstance(record, Frame):
            found.append(record)
            continue
        for n, columns in enumerate(zip(record.times, record.steps, record.values, strict=True)):
            begin = record.start + n * record.size
            head = _frames.POINT_HEAD.pack(_frames.POINT, record.shape, *columns[:2])
            found.append(Frame(begin, begin + record.size, head + columns[2]))
    assert found == list(_frames.split_frames(bytes(data), 100))


def test_segments_roll_and_each_can_be_read_alone(tmp_path: Path) -> None:
    writer = Writer(tmp_path, segment_bytes=1000)
    for step in range(200):
        put(writer, step, loss=step / 2, lr=0.1)
    writer.close()
    assert len(segments(writer.folder)) > 5
    assert rows_of(writer.folder) == [(step, {"loss": step / 2, "lr": 0.1}) for step in range(200)]


def test_a_row_that_is_too_wide_for_one_record_is_whole_again_when_read(tmp_path: Path) -> None:
    writer = Writer(tmp_path)
    values = {f"layer/{n}": float(n) for n in range(5000)}
    for _ in range(2):
        put(writer, 7, **values)
    merged: dict[str, float] = {}
    for step, row in rows_of(writer.folder):
        assert step == 7
        merged |= row
    assert merged == values


def test_threads_lose_nothing(tmp_path: Path) -> None:
    writer = Writer(tmp_path, segment_bytes=4000)

    def work(name: int) -> None:
        for step in range(300):
            put(writer, step, **{f"k{name}": 1.0})

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writer.close()
    rows = rows_of(writer.folder)
    for name in range(4):
        assert [step for step, row in rows if f"k{name}" in row] == list(range(300))


FORKING = """
import os, sys
from pathlib import Path
from cairn._spool import Writer
writer = Writer(Path(sys.argv[1]))
writer.points(("who",), (0.0,), 0, 1.0)
for number in range(1, 4):
    if os.fork() == 0:
        writer.points(("who",), (float(number),), number, 1.0)
        os._exit(0)
for _ in range(3):
    os.wait()
writer.points(("who",), (9.0,), 9, 1.0)
"""


def test_a_forked_child_has_a_spool_of_its_own(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", FORKING, str(tmp_path)], check=True)
    each = sorted([step for step, _ in rows_of(folder)] for folder in writers(tmp_path))
    assert each == [[0, 9], [1], [2], [3]]


KILLED = """
import os, sys
os.environ.update(CAIRN_SPOOL=sys.argv[1], CAIRN_RUN="r")
from functools import partial
import cairn
from cairn import _run, _spool
_run.Writer = partial(_spool.Writer, segment_bytes=20_000)
answer = os.open(sys.argv[2], os.O_WRONLY)
for step in range(10_000_000):
    cairn.log({"loss": step, "nested": {"a": 1}} if step % 3 == 0 else {"loss": step}, step=step)
    os.write(answer, step.to_bytes(8, "little"))
"""


def test_kill_9_loses_nothing_that_log_returned_from(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    chance = random.Random(7)
    for turn in range(30):
        spool = tmp_path / f"spool{turn}"
        process = subprocess.Popen([sys.executable, "-c", KILLED, str(spool), str(pipe)])
        with open(pipe, "rb", buffering=0) as reading:
            told = b""
            wanted = 8 * chance.randrange(1, 3000)
            while len(told) < wanted:
                told += os.read(reading.fileno(), min(65536, wanted - len(told)))
            process.kill()
            while more := os.read(reading.fileno(), 65536):
                told += more
        assert process.wait() == -signal.SIGKILL
        (folder,) = writers(spool)
        steps = [step for step, _ in rows_of(folder)]
        assert steps == list(range(len(steps)))
        assert len(steps) >= len(told) // 8


def test_a_full_disk_warns_once_keeps_a_ring_and_counts_what_it_drops(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    writer = Writer(tmp_path, ring_bytes=50_000, step_bytes=0)
    put(writer, 0, a=0.0)
    assert writer._current is not None
    file = writer._current.file
    full = os.open("/dev/full", os.O_WRONLY)
    usual = os.dup(file)
    os.dup2(full, file)
    for step in range(1, 1001):
        put(writer, step, a=float(step), b=1.0)
    assert len(caplog.records) == 1
    assert 0 < writer.waiting < 1000
    assert writer.dropped == 2 * (1000 - writer.waiting)
    first = 1001 - writer.waiting
    os.dup2(usual, file)
    writer.close()
    os.close(full)
    os.close(usual)
    assert writer.waiting == 0
    assert [step for step, _ in rows_of(writer.folder)] == [0, *range(first, 1001)]
    frames = [frame.payload for _, frame in read_all(writer.folder)]
    told = {"arm": "points_dropped", "value": {"points": writer.dropped}}
    assert [json.loads(payload[1:]) for payload in frames if payload[0] == _frames.JSON] == [told]
    assert json.loads(frames[-1][1:]) == told
    writer.close()
    assert len([*read_all(writer.folder)]) == len(frames), "it is said once"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k,mode=755", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("file systems cannot be mounted here")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_disk_that_fills_up_under_a_mapped_segment_loses_nothing(small_disk: Path) -> None:
    writer = Writer(small_disk, step_bytes=8192)
    for step in range(3000):
        put(writer, step, a=float(step))
    assert writer.waiting, "it does not hold all of them"
    assert os.statvfs(small_disk).f_bavail == 0, "all of it is used"
    subprocess.run(["mount", "-o", "remount,size=1M", str(small_disk)], check=True)
    writer.close()
    assert not writer.waiting
    assert not writer.dropped
    assert rows_of(writer.folder) == [(step, {"a": float(step)}) for step in range(3000)]


def test_a_segment_has_the_same_bytes_whether_it_is_mapped_or_written(tmp_path: Path) -> None:
    made = []
    for step_bytes in (0, 4096):
        writer = Writer(tmp_path, segment_bytes=30_000, step_bytes=step_bytes)
        for step in range(2000):
            put(writer, step, **{f"k{step % 3}": step / 3, "b": 1.0})
            if step == 1000:
                writer.flush()
                writer.lines([LineRecord(1.0, 1, 0, 1, "x" * 20_000)])
        writer.close()
        made.append([segment_path(writer.folder, n).read_bytes() for n in segments(writer.folder)])
    assert len(made[0]) > 3
    assert made[0] == made[1]


def test_behind_what_a_killed_writer_wrote_into_its_map_nothing_is_read(tmp_path: Path) -> None:
    writer = Writer(tmp_path, step_bytes=4096)
    for step in range(3):
        put(writer, step, a=1.0)
    path = segment_path(writer.folder, 1)
    assert path.stat().st_size == 4096, "the rest of what is mapped is zeros"
    reader = SegmentReader(path)
    end = reader.read()[-1].end
    assert not reader.has_more()
    assert reader.read() == []
    put(writer, 3, a=1.0)
    whole = path.read_bytes()
    last = SegmentReader(path).read()[-1]
    assert (last.start, reader.has_more()) == (end, True)
    for cut in range(last.start + 1, last.end):
        torn = tmp_path / "torn.seg"
        torn.write_bytes(whole[:cut] + bytes(4096 - cut))
        for read in (SegmentReader(torn), SegmentReader(torn, end)):
            while read.read_rows():
                pass
            assert read.offset == end


HANDLING = """
import signal, sys
from pathlib import Path
from cairn._spool import Writer
writer = Writer(Path(sys.argv[1]), segment_bytes=5000, step_bytes=4096)
count = 0
def handle(*_):
    global count
    count += 1
    writer.points(("handler",), (1.0,), count, 1.0)
    signal.setitimer(signal.ITIMER_REAL, 0.0001)
signal.signal(signal.SIGALRM, handle)
signal.setitimer(signal.ITIMER_REAL, 0.0001)
step = 0
while count < 2000:
    writer.points(("loop",), (1.0,), step, 1.0)
    step += 1
signal.signal(signal.SIGALRM, signal.SIG_IGN)
writer.close()
print(step, count)
"""


def test_a_signals_handler_may_log_in_the_midst_of_a_log(tmp_path: Path) -> None:
    told = subprocess.run([sys.executable, "-c", HANDLING, str(tmp_path)], stdout=subprocess.PIPE, check=True)
    steps, count = map(int, told.stdout.split())
    (folder,) = writers(tmp_path)
    rows = rows_of(folder)
    assert [step for step, row in rows if "loop" in row] == list(range(steps))
    assert [step for step, row in rows if "handler" in row] == list(range(1, count + 1))


def test_a_row_after_close_is_whole_in_a_new_segment(tmp_path: Path) -> None:
    writer = Writer(tmp_path)
    for step in range(3):
        writer.points(("a", "b"), (1.0, 2.0), step, 1.0)
        writer.close()
    assert len(segments(writer.folder)) == 3
    assert [step for step, _ in rows_of(writer.folder)] == [0, 1, 2]


SMALL_FILES = """
import resource, sys
from pathlib import Path
from cairn._spool import Writer
resource.setrlimit(resource.RLIMIT_FSIZE, (1500, 1500))
writer = Writer(Path(sys.argv[1]))
for step in range(200):
    writer.points(("a", "b"), (1.0, float(step)), step, 1.0)
writer.close()
assert not writer.waiting and not writer.dropped
"""


def test_a_write_that_the_file_took_in_part_is_written_whole_to_the_next_segment(tmp_path: Path) -> None:
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    subprocess.run([sys.executable, "-c", SMALL_FILES, str(tmp_path)], check=True)
    (folder,) = writers(tmp_path)
    assert len(segments(folder)) > 3
    assert [step for step, _ in rows_of(folder)] == list(range(200))


ROW = st.tuples(
    st.lists(st.sampled_from("abcd"), min_size=1, max_size=3, unique=True), st.integers(0, 5), st.floats()
)


@settings(max_examples=60)
@given(rows=st.lists(ROW, max_size=40), lines=st.integers(0, 3), cuts=st.sets(st.integers(0, 40)))
def test_messages_hold_every_point_in_an_order_where_the_last_one_wins(
    rows: list[tuple[list[str], int, float]], lines: int, cuts: set[int], tmp_path_factory: Any
) -> None:
    writer = Writer(tmp_path_factory.mktemp("spool"))
    wanted: dict[tuple[str, int], bytes] = {}
    for place, (keys, step, value) in enumerate(rows):
        writer.points(tuple(keys), [value] * len(keys), step, float(place))
        wanted |= {(key, step): struct.pack("<d", value) for key in keys}
        if place < lines:
            writer.lines([LineRecord(0.0, 1, 0, place + 1, "x")])
    writer.close()
    reader = SegmentReader(segment_path(writer.folder, 1))
    frames = reader.read()
    ends = {frame.end for number, frame in enumerate(frames) if number in cuts}
    records = SegmentReader(reader.path).read_rows()
    found, at = {}, 0
    for message in messages(records, shapes=reader.shapes, start=0, cuts=ends):
        assert message.start == at
        at = message.end
        event = events_pb2.JobEvent.FromString(message.body)
        assert event.WhichOneof("event") == message.arm
        for block in event.points_logged.blocks:
            values = iter(block.values)
            assert len(block.steps) == len(block.times)
            assert len(block.values) == len(block.steps) * len(block.keys)
            for step in block.steps:
                found |= {(key, step): struct.pack("<d", next(values)) for key in block.keys}
    assert found == wanted
    assert at == (frames[-1].end if frames else 0)


def test_what_cannot_be_read_is_left_out_and_the_rest_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    kept = b'\x05{"arm":"run_updated","value":{"tags":["kept"]}}'
    payloads = [b"\x05{not json", b"\x63?", kept, b"\x04\xff\xff"]
    frames = [Frame(n * 10, n * 10 + 10, payload) for n, payload in enumerate(payloads)]
    (message,) = messages(frames, shapes={}, start=0)
    assert (message.arm, message.start, message.end) == ("run_updated", 0, 30)
    assert len(caplog.records) == 2

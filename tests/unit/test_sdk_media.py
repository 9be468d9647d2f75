"""Histograms, tables and images from whatever a training has: counted right, kept whole, never in its way."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cairn
from cairn import _raster, _run
from cairn._local_media import LocalItem, LocalMedia
from cairn._media import Shelf
from cairn._segments import media_folder
from cairn.media import Histogram, Image, Table


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


def kept(key: str = "") -> list[LocalMedia]:
    """What the only run here has."""
    return cairn.local_runs()[0].media(key)


def only(key: str) -> LocalItem:
    ((item,),) = (each.items for each in kept(key))
    return item


def histogram_of(made: Histogram) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(made.encode().data)
    return found


@given(st.lists(st.floats(width=32), max_size=60), st.integers(1, 20))
def test_a_histogram_counts_every_value_once(values: list[float], bins: int) -> None:
    for given_values in (values, np.array(values, dtype=float)):
        told = histogram_of(Histogram(given_values, bins=bins))
        finite = [value for value in values if math.isfinite(value)]
        assert sum(told["counts"]) == len(finite)
        assert told["left_out"] == len(values) - len(finite)
        assert len(told["edges"]) == len(told["counts"]) + 1
        assert told["edges"] == sorted(set(told["edges"]))
        if finite:
            assert told["edges"][0] <= min(finite) <= max(finite) <= told["edges"][-1]


def test_lists_and_arrays_are_counted_alike() -> None:
    values = [0.0, 0.1, 0.1, 0.5, 1.0, math.nan]
    assert histogram_of(Histogram(values, bins=4)) == histogram_of(Histogram(np.array(values), bins=4))
    assert histogram_of(Histogram(values, bins=4))["counts"] == [3, 0, 1, 1]


class Tensor:
    """As torch has them: an array only after it is taken from its graph and its device."""

    def __init__(self, array: Any) -> None:
        self.array = array
        self.dtype = array.dtype

    def detach(self) -> Tensor:
        return self

    cpu = detach

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return self.array


def test_tensors_are_counted_and_shown() -> None:
    assert sum(histogram_of(Histogram(Tensor(np.ones((3, 4)))))["counts"]) == 12
    made = Image(Tensor(np.zeros((3, 4, 5), dtype=np.uint8))).encode()
    assert (made.facts["width"], made.facts["height"]) == (5, 4)


@pytest.mark.parametrize(
    ("array", "pixels"),
    [
        (np.array([[0, 255]], dtype=np.uint8), [0, 255]),
        (np.array([[0.0, 0.5], [2.0, math.nan]]), [0, 128, 255, 0]),
        (np.array([[True, False]]), [255, 0]),
        (np.array([[[1, 2, 3]]]), [1, 2, 3]),
        (np.array([[[1, 2, 3, 4]]], dtype=np.uint8), [1, 2, 3, 4]),
        (np.array([[[7]]], dtype=np.uint8), [7]),
    ],
)
def test_an_array_becomes_a_picture_of_its_values(array: Any, pixels: list[int]) -> None:
    data = Image(array).encode().data
    length = int.from_bytes(data[33:37], "big")
    rows = zlib.decompress(data[41 : 41 + length])
    height = array.shape[0]
    stride = len(rows) // height
    found = [value for row in range(height) for value in rows[row * stride + 1 : (row + 1) * stride]]
    assert found == pixels
    assert data[:8] == b"\x89PNG\r\n\x1a\n"


def test_figures_and_files_are_pictures_as_they_are(tmp_path: Path) -> None:
    class Figure:
        def savefig(self, file: Any, format: str) -> None:
            assert format == "png"
            file.write(_raster.png_of_array(np.zeros((2, 3), dtype=np.uint8)))

    assert Image(Figure()).encode().facts["width"] == 3
    path = tmp_path / "one.gif"
    path.write_bytes(b"GIF89a\x05\x00\x04\x00" + b"\0" * 20)
    made = Image(path, caption="5 by 4").encode()
    assert (made.media_type, made.facts) == (
        "image/gif",
        {"width": 5, "height": 4, "caption": "5 by 4"},
    )


def test_a_table_is_of_rows_of_dicts_or_of_a_frame() -> None:
    class Frame:
        columns = ("a", "b")
        values = np.array([[1.0, 2.0]])

        def to_dict(self) -> None: ...

    for table in (
        Table([{"a": 1, "b": 2}]), Table([(1, 2)], ["a", "b"]), Table(np.array([[1, 2]]), ["a", "b"]),
        Table(Frame()),
    ):  # fmt: skip
        assert json.loads(table.encode().data) == {"columns": ["a", "b"], "rows": [[1, 2]]}
    cells = [[None, math.inf, "\ud800", {"x": [1]}, np.float32(0.5)]]
    told = json.loads(Table(cells, list("abcde")).encode().data)
    assert told["rows"] == [[None, "inf", "?", '{"x": [1]}', 0.5]]


SVG = b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>"
BAD: list[Any] = [
    Histogram("text"), Histogram([1, "x"]), Histogram(bins=0), Histogram([1], bins=10**9), Histogram(None),
    Histogram(counts=[1], edges=[0]), Histogram(counts=[1, 2], edges=[2, 1, 0]),
    Histogram(counts=[-1], edges=[0, 1]),
    Histogram(np.array(["a"])), Table([(1, 2)], ["a"]), Table([(1,)]), Table([(1,)] * 10_001, ["a"]),
    Table(5), Image(SVG), Image("/nowhere.png"), Image(np.zeros((2, 2, 2))), Image(np.array([[300]])),
    Image(np.zeros((0, 3))), Image(b"\x89PNG\r\n\x1a\n" + b"\0" * 17 * 2**20), Image(object()),
    Image(np.zeros((1, 20_000))),
]  # fmt: skip


@pytest.mark.parametrize("bad", BAD)
def test_what_cannot_be_shown_is_one_warning_and_the_rest_is_kept(
    bad: Any, caplog: pytest.LogCaptureFixture
) -> None:
    run = cairn.init(capture=False)
    for step in range(3):
        cairn.log({"bad": bad, "good": 1.0, "fine": [Histogram([1.0]), Histogram([2.0])]}, step=step)
    assert len(caplog.records) == 1
    assert "bad" in caplog.text
    assert [point.step for point in run.history("good")] == [0, 1, 2]
    assert [(each.key, each.step, len(each.items)) for each in kept()] == [
        ("fine", step, 2) for step in range(3)
    ]


def test_a_strict_run_raises_what_others_warn_of() -> None:
    cairn.init(strict=True, capture=False)
    with pytest.raises(ValueError, match="bad"):
        cairn.log({"bad": Image(SVG)})


def test_small_ones_lie_in_the_spool_and_large_ones_beside_it() -> None:
    run = cairn.init(capture=False)
    noise = np.random.default_rng(7).integers(0, 255, (100, 200, 3), dtype=np.uint8)
    cairn.log({"train": {"weights": Histogram(np.arange(10.0))}}, step=4)
    cairn.log_image("sample", noise, caption="noise", step=4)
    cairn.log_image("sample", noise, caption="the same", step=5)
    cairn.log_table("pairs", [(1, "one")], ["number", "word"], step=6)
    assert [(each.key, each.step) for each in kept()] == [
        ("pairs", 6), ("sample", 4), ("sample", 5), ("train/weights", 4)
    ]  # fmt: skip
    assert only("train/weights").value["counts"].count(1) == 10
    assert only("pairs").value["rows"] == [[1, "one"]]
    assert len(list(media_folder(run.spool).iterdir())) == 1  # the same bytes lie there once
    assert kept("sample")[0].items[0].data == Image(noise).encode().data


def test_of_two_for_one_step_the_last_counts() -> None:
    cairn.init(capture=False)
    for caption in ("first", "second"):
        cairn.log_table("t", [], ["a"], caption=caption, step=1)
    assert only("t").caption == "second"


def test_what_log_returned_from_is_there_after_kill_9(tmp_path: Path) -> None:
    script = """
import cairn, numpy as np
cairn.init(capture=False)
noise = np.random.default_rng(1).integers(0, 255, (64, 64, 3), dtype=np.uint8)
step = 0
while True:
    image = cairn.Image(noise + np.uint8(step % 200))
    cairn.log({"weights": cairn.Histogram(noise), "sample": image}, step=step)
    print(step, flush=True)
    step += 1
"""
    last = 0
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=tmp_path, stdout=subprocess.PIPE, text=True, env=dict(os.environ)
    ) as process:
        assert process.stdout is not None
        while last < 20:
            last = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        last = max([last, *map(int, process.stdout.read().split())])
    for key in ("weights", "sample"):
        found = kept(key)
        assert [each.step for each in found][: last + 1] == list(range(last + 1))
        assert all(item.data for each in found for item in each.items)


def test_a_full_disk_costs_the_picture_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = cairn.init(capture=False)
    media_folder(run.spool).write_text("no folder can be made here")
    noise = np.random.default_rng(7).integers(0, 255, (100, 200, 3), dtype=np.uint8)
    for step in range(3):
        cairn.log({"sample": Image(noise), "loss": 1.0}, step=step)
    assert len(caplog.records) == 1
    assert len(run.history("loss")) == 3


def test_no_more_media_wait_than_may_and_the_others_are_counted(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    chance = np.random.default_rng(7)
    monkeypatch.setenv("CAIRN_MEDIA_BYTES", "150000")
    run = cairn.init(capture=False)
    for step in range(5):
        noise = chance.integers(0, 255, (100, 200, 3), dtype=np.uint8)
        cairn.log({"sample": Image(noise), "loss": 1.0}, step=step)
    (said,) = caplog.messages
    assert "no more may wait there (CAIRN_MEDIA_BYTES)" in said
    assert (run.dropped, len(run.history("loss"))) == (3, 5)
    folder = media_folder(run.spool)
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 150_000
    run.finish()
    assert [each.step for each in kept("sample")] == [0, 1]
    assert "3 images and tables of this run were left out" in caplog.messages[-1]
    spool = b"".join(path.read_bytes() for path in run.spool.rglob("*.seg"))
    assert b'"points_dropped", "value": {"points": 3}' in spool


def test_there_is_room_again_once_media_were_sent(tmp_path: Path) -> None:
    now = 0.0
    shelf = Shelf(tmp_path, 10, clock=lambda: now)
    (tmp_path / "one").write_bytes(bytes(6))
    assert not shelf.takes(6)
    (tmp_path / "one").unlink()
    assert not shelf.takes(6)  # it was looked a moment ago
    now = 1.5
    assert (shelf.takes(6), shelf.takes(6)) == (True, False)


def test_a_server_that_is_away_is_one_warning_and_one_line_at_the_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CAIRN_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("CAIRN_TOKEN", "t")
    run = cairn.init(capture=False)
    noise = np.random.default_rng(7).integers(0, 255, (100, 200, 3), dtype=np.uint8)
    cairn.log({"sample": Image(noise), "loss": 1.0})
    run.finish()
    meanwhile, after = caplog.messages
    assert meanwhile.count("127.0.0.1:1") == 1
    assert f"it is kept in {run.spool}, and sent once one does" in meanwhile
    assert after.endswith("KiB of this run are not sent yet: `cairn sync` sends them")


def test_logging_numbers_imports_nothing_of_this() -> None:
    code = (
        "import sys, cairn; cairn.init(capture=False); cairn.log({'a': 1, 'b': {'c': 2}});"
        "print(sorted(set(sys.modules) & {'cairn.media', 'cairn._media', 'numpy', 'PIL', 'torch', 'pandas'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr

"""Which metric another one is drawn over, and where its steps lie there."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

import cairn
from cairn._axes import axis_of, places, with_axes


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_its_own_key_counts_then_the_longest_that_fits() -> None:
    axes = {"*": "time", "val/*": "epoch", "val/loss": "samples", "train/[a]": "tokens", "lr": ""}
    assert axis_of(axes, "val/loss") == "samples"
    assert axis_of(axes, "val/acc") == "epoch"
    assert axis_of(axes, "train/[a]") == "tokens"
    assert axis_of(axes, "train/a") == "time"
    assert axis_of(axes, "lr") == ""
    assert axis_of(axes, "time") == "", "none is drawn over itself"
    assert axis_of({}, "loss") == ""
    assert with_axes([axes, {}], ["val/acc", "lr"]) == ["val/acc", "lr", "epoch"]


def test_a_step_lies_at_the_axis_last_value_up_to_it() -> None:
    axis = {"steps": [10, 20], "last": [0.5, "NaN"]}
    first, second, third, fourth = places([5, 10, 19, 25], axis)
    assert (second, third) == (0.5, 0.5)
    assert math.isnan(first)
    assert math.isnan(fourth)
    assert places([1, 2], None) == [1.0, 2.0]


@pytest.mark.parametrize(("key", "over"), [("", "epoch"), (5, "epoch"), ("x" * 251, "epoch"), ("a", None)])
def test_what_is_no_name_is_told_once(key: str, over: str, caplog: pytest.LogCaptureFixture) -> None:
    cairn.init(capture=False)
    cairn.define_metric(key, step_metric=over)
    assert "is no name" in caplog.text
    cairn.finish()

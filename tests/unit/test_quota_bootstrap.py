"""The file with the first tokens: what is accepted, and what stops the service with a clear word."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cairn_common.settings import SettingsError
from cairn_quota.bootstrap import Bootstrap, read_bootstrap

A, B = "a" * 64, "b" * 64


def write(path: Path, content: object, *, mode: int = 0o600) -> Path:
    path.touch(mode=mode)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    path.chmod(mode)
    return path


def test_a_good_file_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "b.json", {"admin": A, "services": {"scheduler": B}})
    assert read_bootstrap(path) == Bootstrap(admin=A, services={"scheduler": B})


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        {},
        {"admin": A},
        {"admin": "secret", "services": {}},
        {"admin": A.upper(), "services": {}},
        {"admin": A, "services": {"scheduler": A}},
        {"admin": A, "services": {"../x": B}},
        {"admin": A, "services": {"scheduler": 1}},
        {"admin": None, "services": None},
    ],
)
def test_anything_else_is_refused_without_telling_what_is_in_it(tmp_path: Path, content: object) -> None:
    with pytest.raises(SettingsError, match="CAIRN_BOOTSTRAP") as caught:
        read_bootstrap(write(tmp_path / "b.json", content))
    assert "secret" not in str(caught.value)


def test_a_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "b.json", {"admin": A, "services": {}}, mode=0o640)
    with pytest.raises(SettingsError, match="chmod 0600"):
        read_bootstrap(path)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot read"):
        read_bootstrap(tmp_path / "none.json")

"""What a manifest names never leaves its folder."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from cairn._blobs import TransferError
from cairn._http import Api
from cairn._paths import UnsafePath, check_path, check_paths, place
from cairn._transfer import Entry, entries_of, sources


@pytest.mark.parametrize(
    "path",
    [
        "", ".", "..", "../x", "a/../../x", "/etc/passwd", "a//b", "a/./b", "a/", "C:\\x", "C:x",
        "\\\\srv\\x", "a\\..\\b", "a\0b", "a\nb", "x" * 256, "/".join(["a"] * 3000),
    ],
)  # fmt: skip
def test_a_path_that_could_lead_out_is_refused(path: str) -> None:
    with pytest.raises(UnsafePath):
        check_path(path)


def test_plain_paths_pass() -> None:
    for path in ("a", "a/b.txt", "..a/b..", "ein Name", "日本/é"):
        assert check_path(path) == path


@pytest.mark.parametrize("paths", [["a", "a"], ["a", "a/b"], ["a/b/c", "a/b"]])
def test_a_manifest_that_contradicts_itself_is_refused(paths: list[str]) -> None:
    with pytest.raises(UnsafePath):
        check_paths(paths)


def test_files_are_not_written_through_links(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "door").symlink_to(tmp_path)
    with pytest.raises(UnsafePath, match="link"):
        place(folder, "door/x")


def test_parts_have_to_add_up() -> None:
    with pytest.raises(TransferError, match="add up"):
        Entry.of({"path": "a", "size": 5, "digest": "d", "parts": [{"digest": "d", "size": 4}]})
    with pytest.raises(UnsafePath):
        entries_of(Api("http://127.0.0.1:1"), {"entries": [{"path": "../a", "size": 0}]})


def test_a_folder_is_saved_without_what_leads_out_of_it(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub/weights").write_bytes(b"12")
    (folder / "same").symlink_to("sub/weights")
    assert [(s.path, s.size) for s in sources(folder)] == [("same", 2), ("sub/weights", 2)]
    (folder / "out").symlink_to("/etc/hostname")
    with pytest.raises(TransferError, match="leads out"):
        sources(folder)
    with pytest.raises(TransferError, match="does not exist"):
        sources(tmp_path / "none")
    with pytest.raises(TransferError, match="neither a file nor a folder"):
        sources(Path("/dev/null"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(TransferError, match="empty folder"):
        sources(tmp_path / "empty")


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda folder: os.mkfifo(folder / "pipe"), "neither a file nor a folder"),
        (lambda folder: os.symlink("/dev/null", folder / "device"), "leads out"),
        (lambda folder: open(os.fsencode(folder) + b"/\xff", "wb").close(), "no valid Unicode"),
        (lambda folder: (folder / "a\x85b").touch(), "not a plain relative path"),
    ],
)
def test_what_no_other_machine_could_take_is_not_sent(
    tmp_path: Path, spoil: Callable[[Path], object], told: str
) -> None:
    (tmp_path / "fine").touch()
    spoil(tmp_path)
    with pytest.raises((TransferError, UnsafePath), match=told):
        sources(tmp_path)

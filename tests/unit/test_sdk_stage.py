"""What lies on the disk of a checkpoint that is to be sent: one copy, that later writes cannot touch."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cairn._digests import LEAST, Digests
from cairn._stage import Staged, stage
from cairn._transfer import Part, stamp_of
from cairn._upload import ChangedError


def staged(given: Path, folder: Path, *, link: bool) -> Staged:
    return stage(given, folder, step=1, metrics={}, link=link)


def test_files_are_copied_unless_nobody_writes_to_them_any_more(tmp_path: Path) -> None:
    file = tmp_path / "state.bin"
    file.write_bytes(b"first")
    copy = staged(file, tmp_path / "stage", link=False)
    link = staged(file, tmp_path / "stage", link=True)
    assert (copy.links, set(link.links)) == ({}, {"state.bin"})
    assert not copy.content.samefile(file)
    assert link.content.samefile(file), "it is the same file: nothing was copied"
    assert [source.stamp for source in link.sources()] == [stamp_of(file.stat())]
    file.unlink()
    assert link.content.read_bytes() == b"first"
    link.remove()
    copy.remove()
    assert list((tmp_path / "stage").iterdir()) == []


def test_a_file_is_moved_to_the_place_of_a_linked_one_and_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "state.bin"
    file.write_bytes(b"first")
    link = staged(file, tmp_path / "stage", link=True)
    (tmp_path / "new").write_bytes(b"second")
    os.replace(tmp_path / "new", file)
    (source,) = link.sources()
    assert (source.file.read_bytes(), source.stamp) == (b"first", stamp_of(source.file.stat()))


def test_a_linked_file_that_was_made_a_copy_is_out_of_reach(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    for name in ("a", "sub/b"):
        (folder / name).write_text(name)
    link = staged(folder, tmp_path / "stage", link=True)
    link.own()
    for name in ("a", "sub/b"):
        (folder / name).write_text("written over")
    assert {source.path: source.file.read_text() for source in link.sources()} == {"a": "a", "sub/b": "sub/b"}
    assert {source.stamp for source in link.sources()} == {None}
    again = staged(folder, tmp_path / "stage", link=True)
    (folder / "a").write_text("and over again")
    with pytest.raises(ChangedError, match="a was written"):
        again.own()


def test_a_link_is_saved_as_what_it_leads_to(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a").write_text("text")
    (folder / "b").symlink_to("a")
    link = staged(folder, tmp_path / "stage", link=True)
    assert set(link.links) == {"a"}
    assert {source.path: source.file.read_text() for source in link.sources()} == {"a": "text", "b": "text"}


def test_digests_are_known_of_what_is_as_it_was_and_of_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(bytes(2 * LEAST))
    stamp = stamp_of(file.stat())
    parts = (Part("a" * 64, LEAST), Part("b" * 64, LEAST))
    path = tmp_path / "cache" / "digests.sqlite3"
    for began, known in ((stamp[3] + 1, None), (stamp[3] + 10**10, parts)):
        digests = Digests(path)
        digests.note(stamp, began, "c" * 64, parts)
        digests.close()
        assert Digests(path).find(stamp) == known, began
    for changed in range(4):
        other = tuple(value + (place == changed) for place, value in enumerate(stamp))
        assert Digests(path).find((other[0], other[1], other[2], other[3])) is None
    small = (*stamp[:2], LEAST - 1, stamp[3])
    digests = Digests(path)
    digests.note(small, stamp[3] + 10**10, "c" * 64, (Part("a" * 64, LEAST - 1),))
    assert digests.find(small) is None
    digests.close()
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_broken_file_of_digests_is_as_none(tmp_path: Path) -> None:
    path = tmp_path / "digests.sqlite3"
    path.write_bytes(b"no database at all" * 1_000)
    digests = Digests(path)
    assert digests.find((1, 2, LEAST, 4)) is None
    digests.note((1, 2, LEAST, 4), 10**10, "c" * 64, (Part("a" * 64, LEAST),))
    digests.close()
    digests = Digests(tmp_path / "digests.sqlite3" / "below a file")
    assert digests.find((1, 2, LEAST, 4)) is None
    assert Digests.of({"CAIRN_DIGESTS": "0"}) is None

"""Files of the caller's machine: packed, and laid out on the node."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cairn._cli.errors import CliError
from cairn._cli.mounts import Mount, find
from cairn._code import CodeError as PackError
from cairn._code import pack_file
from cairn._runner.code import CodeError
from cairn._runner.mounts import lay


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Data that git would leave out."""
    folder = tmp_path / "source"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "a.txt").write_text("a")
    (folder / "run.sh").write_text("b")
    (folder / "run.sh").chmod(0o700)
    (tmp_path / ".gitignore").write_text("source\n")
    return folder


def packed(source: Path) -> tuple[Path, bool]:
    bundle = Mount("x", source).pack()
    return bundle.path, bool(Mount("x", source).named(bundle)["file"])


def put(source: Path, target: str, tmp_path: Path) -> None:
    archive, file = packed(source)
    work, home = tmp_path / "work", tmp_path / "home"
    for folder in (work, home):
        folder.mkdir(exist_ok=True)
    try:
        lay(archive, target, file=file, work=work, home=str(home), scratch=tmp_path / "scratch")
    finally:
        archive.unlink()
    assert not (tmp_path / "scratch").exists()


def test_a_folder_comes_with_all_that_is_in_it(source: Path, tmp_path: Path) -> None:
    put(source, "data/in", tmp_path)
    assert (tmp_path / "work/data/in/sub/a.txt").read_text() == "a"
    assert os.access(tmp_path / "work/data/in/run.sh", os.X_OK)


def test_a_file_is_the_target_itself(source: Path, tmp_path: Path) -> None:
    put(source / "run.sh", "bin/go", tmp_path)
    assert (tmp_path / "work/bin/go").read_text() == "b"
    put(source / "sub/a.txt", "bin/go", tmp_path)
    assert (tmp_path / "work/bin/go").read_text() == "a"


def test_targets_are_in_the_home_or_absolute_where_that_is_allowed(source: Path, tmp_path: Path) -> None:
    put(source, "~/data", tmp_path)
    assert (tmp_path / "home/data/sub/a.txt").exists()
    put(source, str(tmp_path / "elsewhere"), tmp_path)
    assert (tmp_path / "elsewhere/sub/a.txt").exists()


def test_new_files_come_beside_those_that_are_there(source: Path, tmp_path: Path) -> None:
    (tmp_path / "work/data").mkdir(parents=True)
    (tmp_path / "work/data/old").write_text("old")
    (tmp_path / "work/data/run.sh").write_text("old")
    put(source, "data", tmp_path)
    assert (tmp_path / "work/data/old").read_text() == "old"
    assert (tmp_path / "work/data/run.sh").read_text() == "b"


def test_what_is_in_the_way_is_named_and_not_tried_again(source: Path, tmp_path: Path) -> None:
    (tmp_path / "work/data").mkdir(parents=True)
    (tmp_path / "work/file").write_text("old")
    os.symlink(tmp_path, tmp_path / "work/out")
    for what, target, told in (
        (source / "run.sh", "data", "it is a file, and on the node a folder is in its way"),
        (source, "file", "it is a folder, and on the node a file is in its way"),
        (source, "out/data", "leads out of the working directory"),
    ):
        with pytest.raises(CodeError, match=told) as caught:
            put(what, target, tmp_path)
        assert str(caught.value).startswith(f"file_mounts.{target}: ")
        assert caught.value.hopeless


def test_sources_are_beside_the_task_file_and_must_be_there(source: Path) -> None:
    task = {"file_mounts": {"/a": "source", "/b": "s3://bucket", "/c": {"source": "s3://x"}, "~/d": "~"}}
    found = find(task, source.parent)
    assert [(one.target, one.source) for one in found] == [("/a", source), ("~/d", Path.home())]
    with pytest.raises(CliError, match=r"file_mounts\./a: there is no .*gone"):
        find({"file_mounts": {"/a": "gone"}}, source.parent)


def test_the_same_file_makes_the_same_archive_and_a_huge_one_is_refused(source: Path, tmp_path: Path) -> None:
    bundles = [pack_file(source / "run.sh") for _ in range(2)]
    assert bundles[0].digest == bundles[1].digest
    for bundle in bundles:
        bundle.path.unlink()
    huge = tmp_path / "huge"
    with open(huge, "wb") as file:
        file.truncate(5 * 2**30)
    with pytest.raises(PackError, match=r"5\.0 GiB; at most 2 GiB.*use_artifact"):
        pack_file(huge)

"""Packing a working directory: which files go along, that the bytes depend on them alone, what is refused."""

from __future__ import annotations

import os
import socket
import subprocess
import tarfile
from pathlib import Path

import pytest

from cairn._code import CodeError, list_files, pack
from cairn._git import DIFF_LIMIT, GitState, cut, git_state

GIT = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=main"]


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def git(root: Path, *arguments: str) -> None:
    subprocess.run([*GIT, "-C", str(root), *arguments], check=True, capture_output=True, timeout=30)


FILES = {
    "train.py": "print()",
    "src/a.py": "a",
    "src/__pycache__/a.pyc": "x",
    ".venv/bin/python": "x",
    ".cairn/runs/r/run.json": "{}",
    "env/pyvenv.cfg": "home = /usr",
    "env/bin/python": "x",
    ".git/HEAD": "not a repository",
    "data/big.bin": "x",
    "data/keep.txt": "x",
    "out/model.pt": "x",
    "deep/out/kept.txt": "x",
    "notes.log": "x",
    "deep/important.log": "x",
    ".gitignore": "*.log\n/out\ndata/*\n!data/keep.txt\n",
    "deep/.gitignore": "!important.log\n",
}
PACKED = [
    ".gitignore",
    "data/keep.txt",
    "deep/.gitignore",
    "deep/important.log",
    "deep/out/kept.txt",
    "src/a.py",
    "train.py",
]


def test_outside_git_ignore_files_count_as_they_do_in_git(tmp_path: Path) -> None:
    assert list_files(tree(tmp_path, FILES)) == PACKED


def test_in_git_the_same_files_are_found_and_tracked_ones_go_along_even_if_ignored(tmp_path: Path) -> None:
    files = {name: text for name, text in FILES.items() if not name.startswith(".git/")}
    root = tree(tmp_path, files)
    git(root, "init")
    assert list_files(root) == PACKED
    git(root, "add", "-f", "notes.log", "train.py")
    (root / "train.py").unlink()
    assert list_files(root) == sorted({*PACKED, "notes.log"} - {"train.py"})


def test_a_folder_of_a_repository_is_packed_alone_and_inner_repositories_with_it(tmp_path: Path) -> None:
    root = tree(tmp_path, {"other.py": "x", "job/train.py": "x", "job/lib/mod.py": "x", "job/lib/x.log": "x"})
    tree(root, {"job/lib/.gitignore": "*.log"})
    git(root, "init")
    git(root / "job/lib", "init")
    assert list_files(root / "job") == ["lib/.gitignore", "lib/mod.py", "train.py"]


def test_a_folder_that_its_repository_ignores_is_packed_as_if_there_were_no_git(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    (tmp_path / ".gitignore").write_text("env/\n")
    folder = tmp_path / "env" / "package" / "training"
    folder.mkdir(parents=True)
    (folder / "train.py").write_text("print('here')")
    assert list_files(folder) == ["train.py"]
    assert git_state(folder) == GitState()


def test_skypilots_own_ignore_file_is_used_instead(tmp_path: Path) -> None:
    root = tree(tmp_path, {"a.log": "x", "b.txt": "x", ".gitignore": "*.log", ".skyignore": "*.txt"})
    assert list_files(root) == [".gitignore", ".skyignore", "a.log"]


def test_empty_folders_go_along(tmp_path: Path) -> None:
    (tmp_path / "outputs").mkdir()
    assert list_files(tree(tmp_path, {"a.py": ""})) == ["a.py", "outputs"]


def test_the_same_files_give_the_same_bytes(tmp_path: Path) -> None:
    digests = set()
    for number, order in enumerate((["b.py", "a.py"], ["a.py", "b.py"])):
        root = tree(tmp_path / str(number), {name: name for name in order})
        os.utime(root / "a.py", (number * 1000, number * 1000))
        (root / "b.py").chmod(0o755 if number else 0o711)
        (root / "link").symlink_to("a.py")
        bundle = pack(root)
        digests.add(bundle.digest)
        with tarfile.open(bundle.path) as archive:
            modes = [(m.name, m.mode, m.mtime, m.uid, m.uname, m.linkname) for m in archive]
        assert modes == [
            ("a.py", 0o644, 0, 0, "", ""), ("b.py", 0o755, 0, 0, "", ""), ("link", 0o777, 0, 0, "", "a.py")
        ]  # fmt: skip
        assert bundle.path.stat().st_size == bundle.size
        bundle.path.unlink()
    assert len(digests) == 1


def test_links_inside_the_folder_are_kept_relative(tmp_path: Path) -> None:
    root = tree(tmp_path / "work", {"src/a.py": "x"})
    (root / "src/up").symlink_to(root / "src" / "a.py")
    bundle = pack(root)
    with tarfile.open(bundle.path) as archive:
        assert archive.getmember("src/up").linkname == "a.py"
    bundle.path.unlink()


def broken_link(root: Path) -> None:
    (root / "gone").symlink_to("nowhere")


def link_out(root: Path) -> None:
    (root / "passwords").symlink_to("/etc/passwd")


def socket_file(root: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(root / "sock"))


def too_large(root: Path) -> None:
    with (root / "weights.bin").open("wb") as file:
        os.truncate(file.fileno(), 3 * 2**30)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (broken_link, r"gone is a broken link \(to nowhere\): remove it"),
        (link_out, r"passwords is a link out of the folder \(to /etc/passwd\)"),
        (socket_file, "sock is a socket, pipe or device"),
        (too_large, r"3\.0 GiB together; [^$]* 2 GiB can go[^$]*weights\.bin"),
    ],
)
def test_what_cannot_go_along_is_named_with_a_remedy(tmp_path: Path, spoil, told: str) -> None:  # type: ignore[no-untyped-def]
    root = tree(tmp_path / "w", {"a.py": "x"})
    spoil(root)
    with pytest.raises(CodeError, match=told) as refused:
        pack(root)
    assert ".gitignore" in str(refused.value)
    (root / ".gitignore").write_text("gone\npasswords\nsock\nweights.bin\n")
    pack(root).path.unlink()


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    tree(tmp_path, {"secret.txt": "x"}).joinpath("secret.txt").chmod(0)
    with pytest.raises(CodeError, match=r"secret\.txt cannot be read"):
        pack(tmp_path)


def test_git_state_is_recorded(tmp_path: Path) -> None:
    root = tree(tmp_path, {"a.py": "one\n"})
    git(root, "init")
    git(root, "add", "a.py")
    git(root, "commit", "-m", "first")
    (root / "a.py").write_text("two\n")
    bundle = pack(root)
    code = bundle.code()
    bundle.path.unlink()
    assert len(code["git_commit"]) == 40
    assert code["git_branch"] == "main"
    assert "-one\n+two\n" in code["git_diff"]
    assert len(cut("é" * DIFF_LIMIT).encode()) <= DIFF_LIMIT


def test_what_is_too_much_is_named_with_the_lines_that_leave_it_out(tmp_path: Path) -> None:
    tree(tmp_path, {"train.py": "print()", "src/model.py": "x", "data/readme": "x"})
    images = tmp_path / "data" / "images" / "train"
    images.mkdir(parents=True)
    for number in range(100_000):
        os.close(os.open(images / f"{number}.png", os.O_CREAT))
    (tmp_path / "runs").mkdir()
    with open(tmp_path / "runs" / "weights.bin", "wb") as file:
        file.truncate(5 * 10**9)
    with pytest.raises(CodeError) as refused:
        pack(tmp_path)
    told = str(refused.value)
    assert "100,004 files of 4.7 GiB together; at most 50,000 files and 2 GiB can go with a job" in told
    assert "that make it small enough:\n  /runs/weights.bin\n  /data/images/train/\n" in told
    (tmp_path / ".gitignore").write_text("/runs/weights.bin\n/data/images/train/\n")
    bundle = pack(tmp_path)
    bundle.path.unlink()
    assert bundle.files == 4

"""What git knows of a folder: which files belong, and where the work stands."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

DIFF_LIMIT = 256 * 2**10
_CUT = "\n[the diff goes on; it was cut at 256 KiB]\n"
TIMEOUT = 60.0


@dataclass(frozen=True, slots=True)
class GitState:
    """The commit of HEAD, the branch (empty when detached), and the changes not committed."""

    commit: str = ""
    branch: str = ""
    diff: str = ""


def git_state(folder: Path) -> GitState:
    """The state of the repository that ``folder`` belongs to; all empty outside one."""
    if not _belongs_to_git(folder):
        return GitState()
    commit = _git(folder, "rev-parse", "--verify", "--quiet", "HEAD")
    if commit is None:
        return GitState()
    branch = _git(folder, "symbolic-ref", "--quiet", "--short", "HEAD") or b""
    diff = _git(folder, "diff", "HEAD", "--no-color", "--no-ext-diff", "--no-textconv", "--", ".") or b""
    return GitState(_text(commit), _text(branch), cut(diff.decode("utf-8", "replace")))


def cut(diff: str) -> str:
    """``diff`` in at most 256 KiB of UTF-8."""
    raw = diff.encode()
    if len(raw) <= DIFF_LIMIT:
        return diff
    return raw[: DIFF_LIMIT - len(_CUT)].decode("utf-8", "ignore") + _CUT


def git_files(folder: Path) -> list[str] | None:
    """Tracked files and new ones that are not ignored, relative to ``folder``; None outside a work tree.

    A submodule or a repository inside this one comes as its folder's name.
    """
    if not _belongs_to_git(folder):
        return None
    listed = _git(folder, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    if listed is None:
        return None
    names = {os.fsdecode(name).rstrip("/") for name in listed.split(b"\0") if name}
    # A tracked file that was deleted is listed all the same.
    return sorted(name for name in names if os.path.lexists(folder / name))


def _belongs_to_git(folder: Path) -> bool:
    """Whether a work tree is around ``folder`` and does not ignore it: an ignored folder (one in a virtual
    environment, say) is none of that repository's business, and git would list no file of it.
    """
    if _git(folder, "rev-parse", "--is-inside-work-tree") != b"true\n":
        return False
    return _git(folder, "check-ignore", "--quiet", "--", str(folder)) is None


def _git(folder: Path, *arguments: str) -> bytes | None:
    """What git prints, or None where it fails or is not installed."""
    # Reading must not take the index's lock from the user's own git, nor start its file watcher.
    env = dict(os.environ, GIT_OPTIONAL_LOCKS="0", LC_ALL="C")
    command = ["git", "-c", "core.fsmonitor=false", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(
            command, env=env, stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace").strip()

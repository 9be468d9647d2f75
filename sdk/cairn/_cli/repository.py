"""A repository as `workdir` (`{url, ref}`): fetched here, with the caller's rights, sent as a folder is."""

from __future__ import annotations

import subprocess
from pathlib import Path

from cairn._cli.errors import USAGE, CliError

_SECONDS = 600.0


def fetch(url: str, ref: str, folder: Path) -> Path:
    """A work tree of one commit in the empty `folder`. `ref`: branch, tag or commit. Raises `CliError`."""
    if url.startswith("-") or ref.startswith("-"):
        raise CliError("workdir: neither `url` nor `ref` begins with a `-`", code=USAGE)
    for words in (
        ("init", "--quiet", "."),
        ("fetch", "--quiet", "--depth", "1", "--", url, ref or "HEAD"),
        ("-c", "advice.detachedHead=false", "checkout", "--quiet", "FETCH_HEAD"),
    ):
        _git(folder, *words, told=f"workdir: {url} at {ref or 'its default branch'}")
    return folder


def _git(folder: Path, *words: str, told: str) -> None:
    try:
        done = subprocess.run(
            ["git", *words], cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=_SECONDS, check=False,
        )  # fmt: skip
    except FileNotFoundError:
        raise CliError(f"{told}: there is no `git` here to fetch it", code=USAGE) from None
    except subprocess.TimeoutExpired:
        raise CliError(f"{told}: not fetched within {_SECONDS:.0f} s") from None
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        raise CliError(
            f"{told} cannot be fetched: {lines[-1] if lines else done.returncode}", code=USAGE,
            hint="does `git ls-remote` with that address show it?",
        )  # fmt: skip

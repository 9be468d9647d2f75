"""What the kernel tells of memory: the work of its out-of-memory killer, and how much there is for us."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
# Version 1 says so where there is no limit.
_NO_LIMIT = 2**60


def oom_kills() -> int:
    """Kills so far in this control group; 0 where nobody counts."""
    for folder, version in _groups():
        name = "memory.events" if version == 2 else "memory.oom_control"
        try:
            found = re.search(r"^oom_kill (\d+)$", (folder / name).read_text(), re.MULTILINE)
        except OSError:
            continue
        if found:
            return int(found[1])
    return 0


def memory_limit() -> int:
    """Bytes that this process and its siblings may use together: the narrowest limit, else the machine's."""
    limits = [limit for folder, version in _groups() for limit in _limits(folder, version)]
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([machine, *limits])


def _limits(folder: Path, version: int) -> Iterator[int]:
    """The limits of a group and of those that it lies in."""
    name = "memory.max" if version == 2 else "memory.limit_in_bytes"
    while folder != _ROOT.parent and folder.is_relative_to(_ROOT):
        try:
            text = (folder / name).read_text().strip()
        except OSError:
            text = ""
        if text.isdigit() and int(text) < _NO_LIMIT:
            yield int(text)
        folder = folder.parent


def _groups() -> list[tuple[Path, int]]:
    """Folders that may be this process's, with their version; containers see their own root."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        _, controllers, group = line.split(":", 2)
        inside = group.lstrip("/")
        if not controllers:
            found += [(_ROOT / inside, 2), (_ROOT, 2)]
        elif "memory" in controllers.split(","):
            found += [(_ROOT / "memory" / inside, 1), (_ROOT / "memory", 1)]
    return found

"""Where the weight of a folder lies: its heaviest parts, and which of them to leave out. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

# A folder is told as one of its parts where that has nearly all of it.
_NEARLY_ALL = 0.9


@dataclass(frozen=True, slots=True)
class Part:
    """A file, or a folder (its path ends in `/`) with all that lies in it; `chosen`: to be left out."""

    path: str
    files: int
    size: int
    chosen: bool = False


def heaviest(sizes: Mapping[str, int], *, most_files: int, most_bytes: int, shown: int) -> list[Part]:
    """The heaviest parts of a tree, given as sizes by path, and of these the ones that are too much.

    Chosen are the heaviest, by what is over its limit, until the rest is within both; at least one.
    """
    parts = _parts(sizes)
    files, size = len(sizes), sum(sizes.values())

    def weight(part: Part) -> float:
        return max(part.files / most_files, part.size / most_bytes)

    found: list[Part] = []
    for part in sorted(
        (_narrow(part, parts, weight) for part in parts.get("", [])), key=weight, reverse=True
    ):
        if len(found) >= shown:
            break
        chosen = not found or files > most_files or size > most_bytes
        if chosen:
            files, size = files - part.files, size - part.size
        found.append(Part(part.path, part.files, part.size, chosen))
    return found


def _parts(sizes: Mapping[str, int]) -> dict[str, list[Part]]:
    """The parts that lie directly in each folder, by its path (with `/`; the root's is empty)."""
    totals: dict[str, list[int]] = {}
    for name, size in sizes.items():
        at = -1
        while (at := name.find("/", at + 1)) >= 0:
            total = totals.setdefault(name[: at + 1], [0, 0])
            total[0] += 1
            total[1] += size
    parts: dict[str, list[Part]] = {}
    for path, (files, size) in totals.items():
        parts.setdefault(_parent(path.rstrip("/")), []).append(Part(path, files, size))
    for name, size in sizes.items():
        parts.setdefault(_parent(name), []).append(Part(name, 1, size))
    return parts


def _narrow(part: Part, parts: Mapping[str, list[Part]], weight: Callable[[Part], float]) -> Part:
    """The part of a part that has nearly all of its weight, as deep as that holds."""
    while True:
        inside = [one for one in parts.get(part.path, []) if weight(one) >= _NEARLY_ALL * weight(part)]
        if len(inside) != 1:
            return part
        part = inside[0]


def _parent(path: str) -> str:
    return path[: path.rfind("/") + 1]

"""The part of a task file that is SkyPilot's: where it shall run, and what it needs there. Pure.

All of it goes to SkyPilot as it is written; here it is only told what the platform cannot keep its promises
for, and read what quotas count.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

LOCAL = "local"
CHOICES = ("any_of", "ordered")
MOST_CHOICES = 50
_INFRA = re.compile(r"[A-Za-z0-9*][A-Za-z0-9*._/-]{0,199}")


class Refused(ValueError):
    """A field that cannot be used; `path` says which."""

    def __init__(self, path: str, message: str) -> None:
        super().__init__(message)
        self.path = path


@dataclass(frozen=True, slots=True)
class Choice:
    """One way to meet a request: the fields with those of an entry of `any_of` or `ordered` over them."""

    path: str
    fields: Mapping[str, object]


def infra(fields: Mapping[str, object]) -> str:
    """Where it shall run, in SkyPilot's words; empty: on this machine. Raises Refused."""
    named = dict.fromkeys(name for _, name in _named(fields))
    if LOCAL in named and len(named) > 1:
        raise Refused("resources.any_of", "`local` cannot be one of several; it is chosen by itself alone")
    return "" if not named or LOCAL in named else ",".join(named)[:500]


def choices(fields: Mapping[str, object]) -> list[Choice]:
    """All ways to meet it; without `any_of` and `ordered` the fields themselves. Raises Refused."""
    plain = {name: value for name, value in fields.items() if name not in CHOICES}
    return [Choice(path, {**plain, **entry}) for path, entry in _entries(fields)] or [
        Choice("resources", plain)
    ]


def path_of(fields: Mapping[str, object]) -> str:
    """The path of the first field that names another place than this machine."""
    return next(path for path, name in _named(fields) if name != LOCAL)


def _named(fields: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """Every infra that is named, at the top or by a choice, with its path."""
    for path, place in [("resources", fields), *_entries(fields)]:
        for name in ("infra", "cloud"):
            value = place.get(name)
            if value is None:
                continue
            if not isinstance(value, str) or not _INFRA.fullmatch(value.strip()):
                raise Refused(
                    f"{path}.{name}", "is no infra such as `local`, `slurm/NAME`, `k8s` or `aws/us-east-1`"
                )
            yield f"{path}.{name}", value.strip()


def _entries(fields: Mapping[str, object]) -> list[tuple[str, Mapping[str, object]]]:
    found: list[tuple[str, Mapping[str, object]]] = []
    for name in CHOICES:
        entries = fields.get(name)
        if entries is None:
            continue
        if not isinstance(entries, list) or not 0 < len(entries) <= MOST_CHOICES:
            raise Refused(f"resources.{name}", f"is a list of 1 to {MOST_CHOICES} sets of resources")
        for index, entry in enumerate(entries):
            path = f"resources.{name}[{index}]"
            if not isinstance(entry, dict) or any(key in CHOICES for key in entry):
                raise Refused(path, "is a mapping of resources, without choices of its own")
            found.append((path, entry))
    return found

"""The part of a task file that is SkyPilot's: where it shall run, and what it needs there. Pure.

All of it goes to SkyPilot as it is written; here it is only told what the platform cannot keep its promises
for, and read what quotas count.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

# Beside what this machine honours, too.
TASK = frozenset({"file_mounts"})
RESOURCES = frozenset(
    {
        "cloud", "region", "zone", "accelerator_args", "use_spot", "disk_size", "disk_tier", "network_tier",
        "ports", "image_id", "labels", "any_of", "ordered", "autostop", "local_disk",
    }
)  # fmt: skip
HINTS = {
    "resources.instance_type": "give `cpus` and `accelerators`: quotas cannot count a machine's name",
    "resources.job_recovery": "use `cairn.max_retries`",
    "resources.spot_recovery": "use `cairn.max_retries`",
    "resources.priority": "use `cairn.priority`",
    "secrets": "use `envs` for what is not secret",
}
LOCAL = "local"
_CHOICES = ("any_of", "ordered")
_MOST_CHOICES = 50
_INFRA = re.compile(r"[A-Za-z0-9*][A-Za-z0-9*._/-]{0,199}")
_STORE = re.compile(r"[a-z0-9]+://\S+")


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
    named = dict.fromkeys(_named(fields))
    if LOCAL in named and len(named) > 1:
        raise Refused("resources.any_of", "`local` cannot be one of several; it is chosen by itself alone")
    return "" if not named or LOCAL in named else ",".join(named)[:500]


def choices(fields: Mapping[str, object]) -> list[Choice]:
    """All ways to meet it; without `any_of` and `ordered` the fields themselves. Raises Refused."""
    plain = {name: value for name, value in fields.items() if name not in _CHOICES}
    return [Choice(path, {**plain, **entry}) for path, entry in _entries(fields)] or [
        Choice("resources", plain)
    ]


def accelerators(value: object, path: str) -> tuple[str, int]:
    """The kind (empty: several, or any) and the largest number of GPUs that is asked for. Raises Refused."""
    if value is None:
        return "", 0
    if isinstance(value, str):
        value = [value]
    if isinstance(value, dict):
        pairs = list(value.items())
    elif isinstance(value, list) and all(isinstance(one, str) for one in value):
        pairs = [(kind, number or "1") for kind, _, number in (one.partition(":") for one in value)]
    else:
        raise Refused(path, "is neither `A100:2` nor a list or mapping of such")
    counts = [_count(number, path) for _, number in pairs]
    if not counts or len(counts) > _MOST_CHOICES:
        raise Refused(path, f"names none, or more than {_MOST_CHOICES}")
    kind = str(pairs[0][0]).strip().upper() if len(pairs) == 1 else ""
    return kind, math.ceil(max(counts))


def check_mounts(mounts: object) -> None:
    """Raises Refused for mounts of files that are on the caller's machine: they are not sent along."""
    if not isinstance(mounts, dict):
        raise Refused("file_mounts", "is a mapping of paths on the node to buckets")
    for target, source in mounts.items():
        path = f"file_mounts.{target}"
        url = source.get("source") if isinstance(source, dict) else source
        if not isinstance(url, str) or not _STORE.fullmatch(url):
            raise Refused(
                path, "is no bucket's URL such as s3://data; put files of your machine into `workdir`"
            )


def _named(fields: Mapping[str, object]) -> Iterator[str]:
    """Every infra that is named, at the top or by a choice."""
    for path, place in [("resources", fields), *_entries(fields)]:
        for name in ("infra", "cloud"):
            value = place.get(name)
            if value is None:
                continue
            if not isinstance(value, str) or not _INFRA.fullmatch(value.strip()):
                raise Refused(
                    f"{path}.{name}", "is no infra such as `local`, `slurm/NAME`, `k8s` or `aws/us-east-1`"
                )
            yield value.strip()


def _entries(fields: Mapping[str, object]) -> list[tuple[str, Mapping[str, object]]]:
    found: list[tuple[str, Mapping[str, object]]] = []
    for name in _CHOICES:
        entries = fields.get(name)
        if entries is None:
            continue
        if not isinstance(entries, list) or not 0 < len(entries) <= _MOST_CHOICES:
            raise Refused(f"resources.{name}", f"is a list of 1 to {_MOST_CHOICES} sets of resources")
        for index, entry in enumerate(entries):
            path = f"resources.{name}[{index}]"
            if not isinstance(entry, dict) or any(key in _CHOICES for key in entry):
                raise Refused(path, "is a mapping of resources, without choices of its own")
            found.append((path, entry))
    return found


def _count(number: object, path: str) -> float:
    try:
        count = (
            float(number) if isinstance(number, str | int | float) and not isinstance(number, bool) else 0.0
        )
    except ValueError:
        count = 0.0
    if not 0 < count <= 4096:
        raise Refused(path, "a number of GPUs is above 0 and at most 4096")
    return count

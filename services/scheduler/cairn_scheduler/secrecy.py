"""Secrets of a task file: what is declared, the file without their values, what comes with the request.

A value is never part of what is recorded, told or shown: the file that a job keeps says `null` instead. One
that came with the job is kept with it; one that its user or its team keeps at the quota service is asked for
by each attempt. Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

import yaml

from cairn_common.errors import InvalidArgument, Reason

MASK = "********"
# Shorter ones are words, too: hiding them would garble what is shown, and would hide nothing.
LEAST_HIDDEN = 6
MOST_BYTES = 64 * 1024
MOST_SECRETS = 100


@dataclass(frozen=True, slots=True)
class Settled:
    """The secrets of a job."""

    # By name; None: each attempt asks for it.
    kept: Mapping[str, str | None] = field(repr=False)
    # All values, which nothing that is recorded may hold.
    values: Collection[str] = field(repr=False)


def names(value: object) -> list[str] | None:
    """The names where `secrets` is a list of them, as SkyPilot also writes it; None where it is none."""
    if not isinstance(value, list):
        return None
    for place, name in enumerate(value):
        if not isinstance(name, str):
            raise _invalid(f"secrets[{place}]", "is the name of a variable, such as HF_TOKEN")
    return [str(name).removeprefix("secrets:") for name in value]


def hide(text: str, declared: Mapping[str, str | None]) -> str:
    """The task file with `null` for each value. Raises InvalidArgument where one stands elsewhere, too."""
    if not any(value is not None for value in declared.values()):
        return text
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    assert isinstance(root, yaml.MappingNode), "it was read before"
    found = next(value for key, value in root.value if key.value == "secrets")
    for key, value in reversed(found.value):
        if declared.get(key.value) is None:
            continue
        start, end = value.start_mark.index, value.end_mark.index
        if not found.start_mark.index < start <= end <= found.end_mark.index:
            raise _invalid(
                f"secrets.{key.value}", "is an alias (`*name`): its value stands elsewhere in the file"
            )
        line_end = "\n" if text[start:end].endswith("\n") else ""
        text = f"{text[:start]}null{line_end}{text[end:]}"
    return text


def settle(
    declared: Mapping[str, str | None],
    given: Mapping[str, str],
    *,
    stored: Mapping[str, str],
    shown: Iterable[str],
) -> Settled:
    """What is given with the request goes before what stood in the file, and that before what is stored.

    `shown`: texts that are recorded with the job. Raises InvalidArgument TASK_INVALID with the path of a
    secret that has no value, or whose value is part of those.
    """
    kept = {name: given.get(name, value) for name, value in {**dict.fromkeys(given), **declared}.items()}
    settled = {name: stored.get(name) if value is None else value for name, value in kept.items()}
    if missing := [name for name, value in settled.items() if value is None]:
        raise _invalid(
            f"secrets.{missing[0]}",
            f"no value is known for {', '.join(missing)}. `cairn secret set {missing[0]}` keeps one for your"
            f" jobs (--shared: the team's); `cairn run --secret {missing[0]}` takes your environment's",
        )
    whole = {name: value for name, value in settled.items() if value is not None}
    if len(whole) > MOST_SECRETS or sum(len(v.encode()) for v in whole.values()) > MOST_BYTES:
        raise _invalid(
            "secrets", f"are more than {MOST_SECRETS}, or larger than {MOST_BYTES // 1024} KiB together"
        )
    texts = list(shown)
    for name, value in whole.items():
        if len(value) >= LEAST_HIDDEN and any(value in text for text in texts):
            raise _invalid(
                f"secrets.{name}",
                f"its value stands elsewhere in the task, too, where it is shown; write ${name} there",
            )
    return Settled(kept, tuple(whole.values()))


def mask(text: str, values: Iterable[str]) -> str:
    """The text without those values."""
    for value in sorted(values, key=len, reverse=True):
        if len(value) >= LEAST_HIDDEN:
            text = text.replace(value, MASK)
    return text


def _invalid(path: str, message: str) -> InvalidArgument:
    return InvalidArgument(f"{path}: {message}", reason=Reason.TASK_INVALID, path=path)

"""Secrets of a task file: what is declared, the file without their values, what comes with the request.

A value is never part of what is recorded, told or shown: the file that a job keeps says `null` instead. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import yaml

from cairn_common.errors import InvalidArgument, Reason

MASK = "********"
# Shorter ones are words, too: hiding them would garble what is shown, and would hide nothing.
LEAST_HIDDEN = 6
MOST_BYTES = 64 * 1024
MOST_SECRETS = 100


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
    declared: Mapping[str, str | None], given: Mapping[str, str], *, shown: Iterable[str]
) -> dict[str, str]:
    """Each secret's value: what is given with the request goes before what stood in the file.

    `shown`: texts that are recorded with the job. Raises InvalidArgument TASK_INVALID with the path of a
    secret that has no value, or whose value is part of those.
    """
    values = {name: given.get(name, value) for name, value in {**dict.fromkeys(given), **declared}.items()}
    for name, value in values.items():
        if value is None:
            raise _invalid(
                f"secrets.{name}",
                f"has no value; `cairn run --secret {name}` takes it from your environment",
            )
    settled = {name: value for name, value in values.items() if value is not None}
    if len(settled) > MOST_SECRETS or sum(len(v.encode()) for v in settled.values()) > MOST_BYTES:
        raise _invalid(
            "secrets", f"are more than {MOST_SECRETS}, or larger than {MOST_BYTES // 1024} KiB together"
        )
    texts = list(shown)
    for name, value in settled.items():
        if len(value) >= LEAST_HIDDEN and any(value in text for text in texts):
            raise _invalid(
                f"secrets.{name}",
                f"its value stands elsewhere in the task, too, where it is shown; write ${name} there",
            )
    return settled


def mask(text: str, values: Iterable[str]) -> str:
    """The text without those values."""
    for value in sorted(values, key=len, reverse=True):
        if len(value) >= LEAST_HIDDEN:
            text = text.replace(value, MASK)
    return text


def _invalid(path: str, message: str) -> InvalidArgument:
    return InvalidArgument(f"{path}: {message}", reason=Reason.TASK_INVALID, path=path)

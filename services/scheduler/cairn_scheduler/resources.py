"""What one rank of a task needs, read from its `resources`. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping

from cairn_common.errors import InvalidArgument, Reason
from cairn_scheduler import elsewhere, fields
from cairn_scheduler.fields import show
from cairn_scheduler.model import Resources

_ACCELERATOR = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_AMOUNT = re.compile(r"(\d+(?:\.\d+)?)\+?")
# As SkyPilot reads it: GB where there is no unit; `4x` is four GB for each CPU.
_MEMORY = re.compile(r"(\d+(?:\.\d+)?)\s*(|[KMGTP]I?B?|X)\+?", re.IGNORECASE)
_MIB = {"": 1024.0, "K": 1 / 1024, "M": 1.0, "G": 1024.0, "T": 1024.0**2, "P": 1024.0**3}
_MOST_GPUS = 4096


def read(given: Mapping[str, object], *, infra: str, fits: Callable[[Resources], bool]) -> Resources:
    """What quotas count. Raises InvalidArgument TASK_INVALID with the path.

    With SkyPilot (`infra`) it is the most that any of several choices can take, as SkyPilot chooses. On this
    machine it is the first choice that it could ever hold (`fits`), as nothing else would ever run.
    """
    fields.check(given, "resources", fields.RESOURCES, infra=infra)
    try:
        choices = elsewhere.choices(given)
    except elsewhere.Refused as error:
        raise _invalid(error.path, str(error)) from None
    for choice in choices:
        if choice.path != "resources":
            fields.check(choice.fields, choice.path, fields.RESOURCES, infra=infra)
    found = [need for choice in choices for need in _needs(choice, whole=not infra)]
    if not infra:
        return next((need for need in found if fits(need)), found[0])
    kinds = {one.accelerator for one in found}
    return Resources(
        cpu_milli=max(one.cpu_milli for one in found),
        gpus=max(one.gpus for one in found),
        accelerator=kinds.pop() if len(kinds) == 1 else "",
        memory_mib=max(one.memory_mib for one in found),
    )


def _needs(choice: elsewhere.Choice, *, whole: bool) -> Iterator[Resources]:
    """One for each kind of accelerator that would do. `whole`: GPUs cannot be shared."""
    path, some = choice.path, choice.fields
    cpus = _cpu_milli(some.get("cpus"), f"{path}.cpus")
    memory = _memory_mib(some.get("memory"), f"{path}.memory", cpus=cpus)
    for name, count in _accelerators(some.get("accelerators"), f"{path}.accelerators"):
        if whole and count != int(count):
            raise _invalid(
                f"{path}.accelerators", f"{name}:{count:g}: GPUs of this machine come in whole numbers"
            )
        yield Resources(cpus, math.ceil(count), name, memory)


def _cpu_milli(value: object, path: str) -> int:
    if value is None:
        return 1000
    match = _matched(value, path, _AMOUNT)
    return _sensible(float(match.group(1)) * 1000, value, path)


def _memory_mib(value: object, path: str, *, cpus: int) -> int:
    # SkyPilot writes 0 where a Slurm cluster does not count memory.
    if value is None or (value == 0 and not isinstance(value, bool)):
        return 0
    match = _matched(value, path, _MEMORY)
    unit = match.group(2).upper()[:1]
    each = cpus / 1000 * 1024 if unit == "X" else _MIB[unit]
    return _sensible(float(match.group(1)) * each, value, path)


def _matched(value: object, path: str, form: re.Pattern[str]) -> re.Match[str]:
    text = "" if isinstance(value, bool) or not isinstance(value, str | int | float) else str(value).strip()
    match = form.fullmatch(text) if len(text) <= 40 else None
    if match is None:
        raise _invalid(path, f"{show(value)} is not an amount such as 2, 0.5 or 4+")
    return match


def _sensible(amount: float, value: object, path: str) -> int:
    if not 0 < amount < 2**40:
        raise _invalid(path, f"{show(value)} is not above zero and of a sensible size")
    return max(1, round(amount))


def _accelerators(value: object, path: str) -> list[tuple[str, float]]:
    """Kinds that would do, each with how many; a kind in upper case, empty for any."""
    if value is None:
        return [("", 0)]
    if isinstance(value, str):
        value = _set(value)
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        pairs = [_pair(one) for one in value]
    elif isinstance(value, dict):
        pairs = [(name, 1 if count is None else count) for name, count in value.items()]
    else:
        raise _invalid(path, f"{show(value)} is not of the form `A100:2`, nor a list or mapping of such")
    if not 0 < len(pairs) <= elsewhere.MOST_CHOICES:
        raise _invalid(path, f"names none, or more than {elsewhere.MOST_CHOICES}")
    return [(_kind(name, path), _count(count, f"{path}.{name}", value)) for name, count in pairs]


def _set(text: str) -> list[str]:
    """`{A100:1, V100:1}` in quotes is how SkyPilot also writes a choice."""
    inner = text.strip()
    if inner.startswith("{") and inner.endswith("}"):
        return [one.strip() for one in inner[1:-1].split(",") if one.strip()]
    return [inner]


def _pair(text: str) -> tuple[str, object]:
    name, colon, number = text.partition(":")
    number = number.strip()
    if not colon:
        return name, 1
    return name, float(number) if re.fullmatch(r"\d{1,6}(\.\d{1,6})?", number) else number


def _kind(name: str, path: str) -> str:
    if not _ACCELERATOR.fullmatch(name.strip()):
        raise _invalid(path, f"{show(name)} is not of the form `A100:2`")
    kind = name.strip().upper()
    return "" if kind == "GPU" else kind


def _count(count: object, path: str, value: object) -> float:
    if isinstance(count, bool) or not isinstance(count, int | float) or not 0 < count <= _MOST_GPUS:
        raise _invalid(path, f"{show(value)}: a number of GPUs is above 0 and at most {_MOST_GPUS:,}")
    return float(count)


def _invalid(path: str, message: str) -> InvalidArgument:
    return InvalidArgument(f"{path}: {message}", reason=Reason.TASK_INVALID, path=path)

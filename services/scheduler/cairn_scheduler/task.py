"""Reads a task file: a SkyPilot task for this machine, with an optional `cairn:` block.

Strict: a field that is not known, or that this machine cannot honour, is refused with its path; nothing
that is accepted is dropped.
"""

from __future__ import annotations

import difflib
import itertools
import re
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from cairn_common import document
from cairn_common.errors import InvalidArgument, Reason
from cairn_scheduler import elsewhere, environment
from cairn_scheduler.model import Cause, Resources, Spec

MOST_JOBS = 1000
MOST_NODES = 1000
MOST_RETRIES = 100
# A script travels as one argument of `bash -c`; Linux allows 128 KiB for one.
LONGEST_SCRIPT = 120 * 1024
LONGEST_ENV = 64 * 1024
LONGEST_RUNTIME = 366 * 86400.0
LONGEST_GRACE = 3600.0

_TASK = frozenset({"name", "workdir", "num_nodes", "envs", "setup", "run", "resources", "cairn"})
_TASK_ELSEWHERE = frozenset(
    {
        "file_mounts", "storage_mounts", "service", "secrets", "inputs", "outputs", "config", "volumes",
        "experimental", "event_callback", "pool", "file_mounts_mapping", "any_of", "job_recovery",
    }
)  # fmt: skip
_RESOURCES = frozenset({"cpus", "memory", "accelerators", "infra"})
_RESOURCES_ELSEWHERE = frozenset(
    {
        "cloud", "region", "zone", "instance_type", "accelerator_args", "use_spot", "spot_recovery",
        "job_recovery", "disk_size", "disk_tier", "network_tier", "ports", "image_id", "labels", "any_of",
        "ordered", "autostop", "priority", "priority_class", "volumes", "local_disk",
    }
)  # fmt: skip
_CAIRN = frozenset(
    {"experiment", "priority", "max_retries", "retries", "max_runtime", "grace", "sweep", "env"}
)
# What `cairn.retries` may name. An error of one's own too: some programs fail now and then.
_RETRIED = {
    cause.value.lower(): cause
    for cause in (Cause.INFRA, Cause.LOST, Cause.OOM, Cause.PREEMPTED, Cause.SPOT, Cause.USER_ERROR)
}
_NEVER_RETRIED = {
    "timeout": "`max_runtime` is for all there is to do",
    "budget": "the budget is spent",
    "cancelled": "somebody stopped it",
}
_HINTS = {
    "file_mounts": "put the files into `workdir`, or read them from where they are",
    "secrets": "use `envs` for what is not secret",
    "resources.use_spot": "this machine has no spot market",
    "resources.any_of": "give one `accelerators`",
    "resources.ordered": "give one `accelerators`",
    "resources.priority": "use `cairn.priority`",
    "resources.cloud": "use `infra: local`, or leave it out",
}
_NAME = re.compile(r"[a-zA-Z0-9]+(?:[._-]{1,2}[a-zA-Z0-9]+)*")
_ENV_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]{0,127}")
_ENV_TAKEN = re.compile(r"CAIRN_.*|SKYPILOT_.*|CUDA_VISIBLE_DEVICES")
_ACCELERATOR = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_EXPERIMENT = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")
_AMOUNT = re.compile(r"(\d+(?:\.\d+)?)\+?")
_DURATION = re.compile(r"(?:(\d+)d)?\s*(?:(\d+)h)?\s*(?:(\d+)m)?\s*(?:(\d+(?:\.\d+)?)s?)?")
_MEMORY = re.compile(r"(\d+(?:\.\d+)?)\s*(|MB|GB|TB|MIB|GIB|TIB)\+?", re.IGNORECASE)
_MIB = {"": 1024, "GB": 1024, "GIB": 1024, "MB": 1, "MIB": 1, "TB": 1024 * 1024, "TIB": 1024 * 1024}


@dataclass(frozen=True, slots=True)
class Task:
    """A task file, checked. `grid` holds a sweep's parameters in their order; empty: no sweep."""

    name: str
    experiment: str
    priority: int
    spec: Spec
    grid: tuple[tuple[str, tuple[str, ...]], ...] = ()

    def jobs(self) -> list[Spec]:
        """What to run: one spec for each point of the grid, the last parameter turning fastest."""
        names = [name for name, _ in self.grid]
        specs = []
        for values in itertools.product(*(choices for _, choices in self.grid)):
            chosen = dict(zip(names, values, strict=True))
            specs.append(replace(self.spec, envs={**self.spec.envs, **chosen}, params=chosen))
        return specs


def parse(text: str, *, skypilot: bool = False) -> Task:
    """Reads a task file. Raises InvalidArgument TASK_INVALID with the field's `path` in the metadata.

    `skypilot`: whether there is one, so that other places than this machine can be named.
    """
    root = document.read(text)
    if not isinstance(root, dict):
        raise invalid("", "a task file is a mapping of fields, such as `run: python train.py`")
    fields = _mapping(root, "resources", "")
    infra = _infra(fields, skypilot=skypilot)
    _known(root, "", _TASK | elsewhere.TASK if infra else _TASK, _TASK_ELSEWHERE, infra=infra)
    block = _mapping(root, "cairn", "")
    _known(block, "cairn", _CAIRN, frozenset())
    envs = _envs(root)
    spec = Spec(
        task=text,
        setup=_script(root, "setup"),
        run=_script(root, "run"),
        num_nodes=_integer(root, "num_nodes", "", default=1, least=1, most=MOST_NODES),
        resources=_resources_elsewhere(root, fields, infra) if infra else _resources(fields),
        infra=infra,
        max_retries=_integer(block, "max_retries", "cairn", default=3, least=0, most=MOST_RETRIES),
        retries=_retries(block),
        max_runtime=_duration(block, "max_runtime", least=1.0, most=LONGEST_RUNTIME),
        grace=_duration(block, "grace", least=0.0, most=LONGEST_GRACE, default=10.0) or 0.0,
        environment=environment.parse(block.get("env")),
    )
    if not spec.run.strip():
        raise invalid("run", "is empty: a task needs a command to run")
    _workdir(root)
    grid = _sweep(block, envs)
    _no_gaps(envs, grid)
    return Task(
        name=_text(root, "name", _NAME, "letters and digits, joined by single `.`, `_` or `-`"),
        experiment=_text(block, "experiment", _EXPERIMENT, "1 to 63 of a-z, 0-9 and -", at="cairn"),
        priority=_integer(block, "priority", "cairn", default=0, least=-1000, most=1000),
        spec=replace(spec, envs={name: value for name, value in envs.items() if value is not None}),
        grid=grid,
    )


def invalid(
    path: str, message: str, *, reason: Reason = Reason.TASK_INVALID, **facts: str | int
) -> InvalidArgument:
    """The one error of this module: `path: message`."""
    return InvalidArgument(f"{path}: {message}" if path else message, reason=reason, path=path, **facts)


def _known(
    fields: Mapping[str, object], at: str, known: frozenset[str], others: frozenset[str], *, infra: str = ""
) -> None:
    for name in fields:
        path = f"{at}.{name}" if at else name
        if name in known:
            continue
        if name in others:
            hint = (elsewhere.HINTS if infra else _HINTS).get(path)
            told = "Cairn does not pass on" if infra else "this machine cannot honour"
            raise invalid(path, f"is a field of SkyPilot that {told}" + (f"; {hint}" if hint else ""))
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
        meant = f"; did you mean `{close[0]}`?" if close else f"; known are {', '.join(sorted(known))}"
        raise invalid(path, f"there is no such field{meant}", suggestion=close[0] if close else "")


def _mapping(fields: Mapping[str, object], name: str, at: str) -> dict[str, object]:
    value = fields.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise invalid(f"{at}.{name}" if at else name, f"is a mapping of fields, not {_kind(value)}")
    return value


def _script(fields: Mapping[str, object], name: str) -> str:
    value = fields.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise invalid(name, f"is a shell script (text), not {_kind(value)}")
    if _size(value, name) > LONGEST_SCRIPT:
        raise invalid(name, f"is longer than {LONGEST_SCRIPT // 1024} KiB; put it into a file of `workdir`")
    return value


def _size(text: str, path: str) -> int:
    """In bytes. Refuses what no process could be handed: NUL, and halves of surrogate pairs."""
    try:
        raw = text.encode()
    except UnicodeEncodeError:
        raise invalid(path, "is not valid Unicode") from None
    if 0 in raw:
        raise invalid(path, "contains a NUL character")
    return len(raw)


def _text(fields: Mapping[str, object], name: str, form: re.Pattern[str], told: str, *, at: str = "") -> str:
    value = fields.get(name)
    if value is None:
        return ""
    path = f"{at}.{name}" if at else name
    if not isinstance(value, str) or len(value) > 200 or not form.fullmatch(value):
        raise invalid(path, f"{_show(value)} is not of the form: {told}")
    return value


def _integer(fields: Mapping[str, object], name: str, at: str, *, default: int, least: int, most: int) -> int:
    value = fields.get(name)
    if value is None:
        return default
    path = f"{at}.{name}" if at else name
    if isinstance(value, bool) or not isinstance(value, int):
        raise invalid(path, f"{_show(value)} is not a whole number")
    if not least <= value <= most:
        raise invalid(path, f"{_show(value)} is not in {least:,} to {most:,}")
    return value


def _duration(
    fields: Mapping[str, object], name: str, *, least: float, most: float, default: float | None = None
) -> float | None:
    value = fields.get(name)
    if value is None:
        return default
    path = f"cairn.{name}"
    if isinstance(value, str) and value.strip() and (match := _DURATION.fullmatch(value.strip().lower())):
        days, hours, minutes, rest = (float(part or 0) for part in match.groups())
        seconds = days * 86400 + hours * 3600 + minutes * 60 + rest
    elif isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(value)
    else:
        raise invalid(
            path, f"{_show(value)} is not a duration: seconds, or a text such as `1d 2h 30m` or `90s`"
        )
    if not least <= seconds <= most:  # also refuses NaN
        raise invalid(path, f"{_show(value)} is not between {least:g} s and {most:,.0f} s")
    return seconds


def _retries(block: Mapping[str, object]) -> dict[Cause, int]:
    """`{infra: 5, oom: 0}`: an allowance for each cause that is named."""
    given = _mapping(block, "retries", "cairn")
    at = "cairn.retries"
    for name in given:
        if name in _NEVER_RETRIED:
            raise invalid(f"{at}.{name}", f"{_NEVER_RETRIED[name]}: another attempt cannot help")
    _known(given, at, frozenset(_RETRIED), frozenset())
    return {
        _RETRIED[name]: _integer(given, name, at, default=0, least=0, most=MOST_RETRIES)
        for name in sorted(given)
    }


def _workdir(root: Mapping[str, object]) -> None:
    value = root.get("workdir")
    if value is None:
        return
    if isinstance(value, dict):
        raise invalid("workdir", "a repository as workdir cannot be used on this machine; give a folder")
    if not isinstance(value, str) or not value.strip() or not _size(value, "workdir"):
        raise invalid("workdir", f"is the path of a folder, not {_show(value)}")


def _envs(root: Mapping[str, object]) -> dict[str, str | None]:
    envs: dict[str, str | None] = {}
    for name, value in _mapping(root, "envs", "").items():
        path = f"envs.{name}"
        if not _ENV_NAME.fullmatch(name):
            raise invalid(path, f"{_show(name)} is not a name for a variable: letters, digits and _")
        if _ENV_TAKEN.fullmatch(name):
            raise invalid(path, "is set by the platform itself; choose another name")
        envs[name] = None if value is None else _value(value, path)
    if sum(len(n) + len(v or "") for n, v in envs.items()) > 2 * LONGEST_ENV:
        raise invalid(
            "envs", f"are larger than {2 * LONGEST_ENV // 1024} KiB together; use a file of `workdir`"
        )
    return envs


def _no_gaps(envs: Mapping[str, str | None], grid: tuple[tuple[str, tuple[str, ...]], ...]) -> None:
    swept = {name for name, _ in grid}
    for name, value in envs.items():
        if value is None and name not in swept:
            raise invalid(f"envs.{name}", "has no value; give one here (an empty text is '')")


def _value(value: object, path: str) -> str:
    """A scalar as SkyPilot writes it into the environment: Python's `str`."""
    if not isinstance(value, str | int | float):
        raise invalid(path, f"is one value (text or number), not {_kind(value)}")
    try:
        text = str(value)
    except ValueError:  # an integer of thousands of digits
        raise invalid(path, "is a number with too many digits") from None
    if _size(text, path) > LONGEST_ENV:
        raise invalid(path, f"is longer than {LONGEST_ENV // 1024} KiB; put it into a file of `workdir`")
    return text


def _resources(fields: Mapping[str, object]) -> Resources:
    _known(fields, "resources", _RESOURCES, _RESOURCES_ELSEWHERE)
    name, count = _accelerators(fields.get("accelerators"))
    return Resources(
        cpu_milli=_amount(fields.get("cpus"), "resources.cpus", _AMOUNT, _cpu_milli, default=1000),
        gpus=count,
        accelerator=name,
        memory_mib=_amount(fields.get("memory"), "resources.memory", _MEMORY, _mib, default=0),
    )


def _infra(fields: Mapping[str, object], *, skypilot: bool) -> str:
    """Where it shall run: empty for this machine. Raises InvalidArgument."""
    given = fields.get("infra")
    if given is not None and given != elsewhere.LOCAL and not skypilot:
        raise invalid(
            "resources.infra",
            f"{_show(given)} is not here; the only one is `local` (others need `cairn up --skypilot`)",
        )
    if not skypilot:
        return ""
    try:
        return elsewhere.infra(fields)
    except elsewhere.Refused as error:
        raise invalid(error.path, str(error)) from None


def _resources_elsewhere(root: Mapping[str, object], fields: Mapping[str, object], infra: str) -> Resources:
    """What a rank needs at most, whichever choice SkyPilot takes: this is what quotas count."""
    known = _RESOURCES | elsewhere.RESOURCES
    _known(fields, "resources", known, _RESOURCES_ELSEWHERE, infra=infra)
    found = []
    try:
        if "file_mounts" in root:
            elsewhere.check_mounts(root["file_mounts"])
        for choice in elsewhere.choices(fields):
            path, some = choice.path, choice.fields
            if path != "resources":
                _known(some, path, known, _RESOURCES_ELSEWHERE, infra=infra)
            name, count = elsewhere.accelerators(some.get("accelerators"), f"{path}.accelerators")
            cpus = _amount(some.get("cpus"), f"{path}.cpus", _AMOUNT, _cpu_milli, default=1000)
            memory = _amount(some.get("memory"), f"{path}.memory", _MEMORY, _mib, default=0)
            found.append(Resources(cpus, count, name, memory))
    except elsewhere.Refused as error:
        raise invalid(error.path, str(error)) from None
    kinds = {one.accelerator for one in found}
    return Resources(
        cpu_milli=max(one.cpu_milli for one in found),
        gpus=max(one.gpus for one in found),
        accelerator=kinds.pop() if len(kinds) == 1 else "",
        memory_mib=max(one.memory_mib for one in found),
    )


def _amount(
    value: object,
    path: str,
    form: re.Pattern[str],
    read: Callable[[re.Match[str]], int],
    *,
    default: int,
) -> int:
    if value is None:
        return default
    text = "" if isinstance(value, bool) or not isinstance(value, str | int | float) else str(value).strip()
    match = form.fullmatch(text) if len(text) <= 40 else None
    if match is None:
        raise invalid(path, f"{_show(value)} is not an amount such as 2, 0.5 or 4+")
    amount = read(match)
    if not 0 < amount < 2**40:
        raise invalid(path, f"{_show(value)} is not above zero and of a sensible size")
    return amount


def _cpu_milli(match: re.Match[str]) -> int:
    return round(float(match.group(1)) * 1000)


def _mib(match: re.Match[str]) -> int:
    return round(float(match.group(1)) * _MIB[match.group(2).upper()])


def _accelerators(value: object) -> tuple[str, int]:
    path = "resources.accelerators"
    if value is None:
        return "", 0
    if isinstance(value, dict) and len(value) == 1:
        name, count = next(iter(value.items()))
        path = f"{path}.{name}"
    elif isinstance(value, str):
        name, colon, number = value.partition(":")
        count = _number(number.strip()) if colon else 1
    elif isinstance(value, dict | list):
        raise invalid(path, "several accelerators to choose from cannot be used on this machine; give one")
    else:
        raise invalid(path, f"{_show(value)} is not of the form `A100:2`")
    if not isinstance(name, str) or not _ACCELERATOR.fullmatch(name.strip()):
        raise invalid(path, f"{_show(value)} is not of the form `A100:2`")
    if (
        isinstance(count, bool)
        or not isinstance(count, int | float)
        or not 0 < count <= 4096
        or count != int(count)
    ):
        raise invalid(path, f"{_show(value)}: GPUs come in whole numbers, from 1")
    kind = name.strip().upper()
    return ("" if kind == "GPU" else kind), int(count)


def _number(text: str) -> int | float | None:
    if re.fullmatch(r"\d{1,6}", text):
        return int(text)
    return float(text) if re.fullmatch(r"\d{1,6}\.\d{1,6}", text) else None


def _sweep(
    block: Mapping[str, object], envs: Mapping[str, str | None]
) -> tuple[tuple[str, tuple[str, ...]], ...]:
    if "sweep" not in block:
        return ()
    sweep = _mapping(block, "sweep", "cairn")
    _known(sweep, "cairn.sweep", frozenset({"parameters"}), frozenset())
    parameters = _mapping(sweep, "parameters", "cairn.sweep")
    at = "cairn.sweep.parameters"
    if not parameters:
        raise invalid(at, "is empty: give each parameter a list of values")
    grid = []
    jobs = 1
    for name, values in parameters.items():
        path = f"{at}.{name}"
        if name not in envs:
            close = difflib.get_close_matches(name, list(envs), n=1)
            told = f"; did you mean `{close[0]}`?" if close else ""
            raise invalid(path, f"is not declared in `envs`; declare it there with its default{told}")
        if not isinstance(values, list) or not values:
            raise invalid(path, f"is a list of values, such as [0.1, 0.01], not {_show(values)}")
        texts = tuple(_value(value, f"{path}[{index}]") for index, value in enumerate(values))
        if len(set(texts)) != len(texts):
            raise invalid(path, "has the same value twice")
        grid.append((name, texts))
        jobs *= len(texts)
    if jobs > MOST_JOBS:
        raise invalid(
            at, f"the grid has {jobs:,} jobs, the most is {MOST_JOBS:,}", reason=Reason.SWEEP_INVALID
        )
    return tuple(grid)


def _kind(value: object) -> str:
    kinds = (
        (dict, "a mapping"),
        (list, "a list"),
        (bool, "yes or no"),
        (int | float, "a number"),
        (str, "a text"),
    )
    return next((told for kind, told in kinds if isinstance(value, kind)), "nothing")


def _show(value: object) -> str:
    """Short, and bounded also where aliases nest: a plain `repr` would not be."""
    try:
        return _shorten.repr(value)
    except ValueError:  # an integer of thousands of digits
        return "this number"


_shorten = reprlib.Repr()
_shorten.maxstring = _shorten.maxother = 80
_shorten.maxlevel = 3

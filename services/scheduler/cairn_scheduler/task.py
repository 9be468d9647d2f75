"""Reads a task file: a SkyPilot task for this machine, with an optional `cairn:` block.

Strict: a field that is not known, or that this machine cannot honour, is refused with its path; nothing
that is accepted is dropped.
"""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from cairn_common import document
from cairn_common.errors import InvalidArgument, Reason
from cairn_common.variables import LONGEST, NAME, TAKEN
from cairn_scheduler import dependencies, elsewhere, environment, fields, mounts, resources, secrecy
from cairn_scheduler.dependencies import Wish
from cairn_scheduler.fields import kind, show
from cairn_scheduler.model import Cause, Resources, Spec

MOST_JOBS = 1000
MOST_NODES = 1000
MOST_RETRIES = 100
# A script travels as one argument of `bash -c`; Linux allows 128 KiB for one.
LONGEST_SCRIPT = 120 * 1024
LONGEST_RUNTIME = 366 * 86400.0
LONGEST_GRACE = 3600.0

_CAIRN = frozenset(
    {
        "experiment",
        "priority",
        "priority_class",
        "project",
        "flavors",
        "max_retries",
        "retries",
        "max_runtime",
        "grace",
        "sweep",
        "env",
        "after",
    }
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
_NAME = re.compile(r"[a-zA-Z0-9]+(?:[._-]{1,2}[a-zA-Z0-9]+)*")
_EXPERIMENT = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")
_FLAVOR = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:/[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*")
_DURATION = re.compile(r"(?:(\d+)d)?\s*(?:(\d+)h)?\s*(?:(\d+)m)?\s*(?:(\d+(?:\.\d+)?)s?)?")


@dataclass(frozen=True, slots=True)
class Task:
    """A task file, checked. `grid` holds a sweep's parameters in their order; empty: no sweep."""

    name: str
    experiment: str
    priority: int
    spec: Spec
    grid: tuple[tuple[str, tuple[str, ...]], ...] = ()
    project: str = ""
    priority_class: str = ""
    # Of the quota tree, in the order in which they are tried; none: the tree's own.
    flavors: tuple[str, ...] = ()
    # What it is to run after.
    after: tuple[Wish, ...] = ()
    # What it declares, with the values that stood in it; `spec.task` is without them.
    secrets: Mapping[str, str | None] = field(default_factory=dict, repr=False)
    # Targets of `file_mounts` whose files are the caller's to send.
    mounts: Sequence[str] = ()
    # `workdir` names a repository: the caller's to fetch, as a folder is.
    repository: bool = False

    def jobs(self) -> list[Spec]:
        """What to run: one spec for each point of the grid, the last parameter turning fastest."""
        names = [name for name, _ in self.grid]
        specs = []
        for values in itertools.product(*(choices for _, choices in self.grid)):
            chosen = dict(zip(names, values, strict=True))
            specs.append(replace(self.spec, envs={**self.spec.envs, **chosen}, params=chosen))
        return specs


def parse(
    text: str, *, skypilot: bool = False, fits: Callable[[Resources], bool] = lambda need: True
) -> Task:
    """Reads a task file. Raises InvalidArgument TASK_INVALID with the field's `path` in the metadata.

    `skypilot`: whether there is one, so that other places than this machine can be named. `fits`: whether
    this machine could ever hold so much; of several choices the first that does is taken.
    """
    root = document.read(text)
    if not isinstance(root, dict):
        raise invalid("", "a task file is a mapping of fields, such as `run: python train.py`")
    given = _mapping(root, "resources", "")
    infra = _infra(given, skypilot=skypilot)
    fields.check(root, "", fields.TASK, infra=infra)
    block = _mapping(root, "cairn", "")
    _known(block, "cairn", _CAIRN)
    _check_image(given, block, infra=infra)
    envs, secrets = _envs(root), _secrets(root)
    nodes = _integer(root, "num_nodes", "", default=1, least=1, most=MOST_NODES)
    spec = Spec(
        task=secrecy.hide(text, secrets),
        setup=_script(root, "setup"),
        run=_script(root, "run"),
        num_nodes=nodes,
        resources=resources.read(given, infra=infra, fits=lambda need: fits(need.times(nodes))),
        infra=infra,
        max_retries=_integer(block, "max_retries", "cairn", default=3, least=0, most=MOST_RETRIES),
        retries=_retries(block),
        max_runtime=_duration(block, "max_runtime", least=1.0, most=LONGEST_RUNTIME),
        grace=_duration(block, "grace", least=0.0, most=LONGEST_GRACE, default=10.0) or 0.0,
        environment=environment.parse(block.get("env")),
    )
    if not spec.run.strip():
        raise invalid("run", "is empty: a task needs a command to run")
    grid = _sweep(block, envs)
    _no_gaps(envs, grid)
    return Task(
        name=_text(root, "name", _NAME, "letters and digits, joined by single `.`, `_` or `-`"),
        experiment=_text(block, "experiment", _EXPERIMENT, "1 to 63 of a-z, 0-9 and -", at="cairn"),
        priority=_priority(given, block),
        spec=replace(spec, envs={name: value for name, value in envs.items() if value is not None}),
        grid=grid,
        project=_text(block, "project", _EXPERIMENT, "1 to 63 of a-z, 0-9 and -", at="cairn"),
        priority_class=_text(block, "priority_class", _EXPERIMENT, "1 to 63 of a-z, 0-9 and -", at="cairn"),
        flavors=_flavors(block),
        after=_after(block),
        secrets=secrets,
        mounts=mounts.read(root.get("file_mounts"), infra=infra),
        repository=_workdir(root),
    )


def invalid(
    path: str, message: str, *, reason: Reason = Reason.TASK_INVALID, **facts: str | int
) -> InvalidArgument:
    """The one error of this module: `path: message`."""
    return InvalidArgument(f"{path}: {message}" if path else message, reason=reason, path=path, **facts)


def _known(given: Mapping[str, object], at: str, known: frozenset[str]) -> None:
    for name in given:
        if name not in known:
            raise fields.unknown(f"{at}.{name}", name, sorted(known))


def _mapping(given: Mapping[str, object], name: str, at: str) -> dict[str, object]:
    value = given.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise invalid(f"{at}.{name}" if at else name, f"is a mapping of fields, not {kind(value)}")
    return value


def _script(given: Mapping[str, object], name: str) -> str:
    value = given.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise invalid(name, f"is a shell script (text), not {kind(value)}")
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


def _text(given: Mapping[str, object], name: str, form: re.Pattern[str], told: str, *, at: str = "") -> str:
    value = given.get(name)
    if value is None:
        return ""
    path = f"{at}.{name}" if at else name
    if not isinstance(value, str) or len(value) > 200 or not form.fullmatch(value):
        raise invalid(path, f"{show(value)} is not of the form: {told}")
    return value


def _integer(given: Mapping[str, object], name: str, at: str, *, default: int, least: int, most: int) -> int:
    value = given.get(name)
    if value is None:
        return default
    path = f"{at}.{name}" if at else name
    if isinstance(value, bool) or not isinstance(value, int):
        raise invalid(path, f"{show(value)} is not a whole number")
    if not least <= value <= most:
        raise invalid(path, f"{show(value)} is not in {least:,} to {most:,}")
    return value


def _duration(
    given: Mapping[str, object], name: str, *, least: float, most: float, default: float | None = None
) -> float | None:
    value = given.get(name)
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
            path, f"{show(value)} is not a duration: seconds, or a text such as `1d 2h 30m` or `90s`"
        )
    if not least <= seconds <= most:  # also refuses NaN
        raise invalid(path, f"{show(value)} is not between {least:g} s and {most:,.0f} s")
    return seconds


def _retries(block: Mapping[str, object]) -> dict[Cause, int]:
    """`{infra: 5, oom: 0}`: an allowance for each cause that is named."""
    given = _mapping(block, "retries", "cairn")
    at = "cairn.retries"
    for name in given:
        if name in _NEVER_RETRIED:
            raise invalid(f"{at}.{name}", f"{_NEVER_RETRIED[name]}: another attempt cannot help")
    _known(given, at, frozenset(_RETRIED))
    return {
        _RETRIED[name]: _integer(given, name, at, default=0, least=0, most=MOST_RETRIES)
        for name in sorted(given)
    }


def _workdir(root: Mapping[str, object]) -> bool:
    """Whether it is a repository rather than a folder."""
    value = root.get("workdir")
    if value is None:
        return False
    if isinstance(value, dict):
        for name, text in value.items():
            if name not in ("url", "ref"):
                raise fields.unknown(f"workdir.{name}", name, ["url", "ref"])
            if not isinstance(text, str) or not text.strip() or not text.isprintable():
                raise invalid(f"workdir.{name}", f"is a text, not {show(text)}")
        if "url" not in value:
            raise invalid("workdir.url", "is missing: the address of the repository")
        return True
    if not isinstance(value, str) or not value.strip() or not _size(value, "workdir"):
        raise invalid("workdir", f"is the path of a folder, or {{url: ..., ref: ...}}, not {show(value)}")
    return False


def _envs(root: Mapping[str, object]) -> dict[str, str | None]:
    envs = variables(_mapping(root, "envs", ""), "envs")
    if sum(len(n) + len(v or "") for n, v in envs.items()) > 2 * LONGEST:
        raise invalid("envs", f"are larger than {2 * LONGEST // 1024} KiB together; use a file of `workdir`")
    return envs


def _secrets(root: Mapping[str, object]) -> dict[str, str | None]:
    """What is declared, with the values that stand in the file. No error says a value."""
    named = secrecy.names(root.get("secrets"))
    given = dict.fromkeys(named) if named is not None else _mapping(root, "secrets", "")
    return variables(given, "secrets", beside=_mapping(root, "envs", ""))


def variables(given: Mapping[str, object], at: str, *, beside: Collection[str] = ()) -> dict[str, str | None]:
    """Environment variables by name. Raises InvalidArgument with the path below `at`; it tells no value."""
    found: dict[str, str | None] = {}
    for name, value in given.items():
        path = f"{at}.{name}"
        if not NAME.fullmatch(name):
            raise invalid(path, f"{show(name)} is not a name for a variable: letters, digits and _")
        if TAKEN.fullmatch(name):
            raise invalid(path, "is set by the platform itself; choose another name")
        if name in beside:
            raise invalid(path, "stands in `envs`, too; keep one of them")
        found[name] = None if value is None else _value(value, path)
    return found


def _no_gaps(envs: Mapping[str, str | None], grid: tuple[tuple[str, tuple[str, ...]], ...]) -> None:
    swept = {name for name, _ in grid}
    for name, value in envs.items():
        if value is None and name not in swept:
            raise invalid(f"envs.{name}", "has no value; give one here (an empty text is '')")


def _value(value: object, path: str) -> str:
    """A scalar as SkyPilot writes it into the environment: Python's `str`."""
    if not isinstance(value, str | int | float):
        raise invalid(path, f"is one value (text or number), not {kind(value)}")
    try:
        text = str(value)
    except ValueError:  # an integer of thousands of digits
        raise invalid(path, "is a number with too many digits") from None
    if _size(text, path) > LONGEST:
        raise invalid(path, f"is longer than {LONGEST // 1024} KiB; put it into a file of `workdir`")
    return text


def _infra(given: Mapping[str, object], *, skypilot: bool) -> str:
    """Where it shall run: empty for this machine. Raises InvalidArgument."""
    try:
        infra = elsewhere.infra(given)
    except elsewhere.Refused as error:
        raise invalid(error.path, str(error)) from None
    if infra and not skypilot:
        raise invalid(
            elsewhere.path_of(given),
            f"{show(infra)} is not here; the only one is `local` (others need `cairn up --skypilot`)",
        )
    return infra


def _check_image(given: Mapping[str, object], block: Mapping[str, object], *, infra: str) -> None:
    """`cairn.env.image` is another name for `resources.image_id`."""
    path = f"{environment.PATH}.image"
    if not environment.image(block.get("env")):
        return
    if not infra:
        raise invalid(path, str(fields.RESOURCES["image_id"].here))
    if given.get("image_id") is not None:
        raise invalid(path, "cannot stand beside `resources.image_id`; give one of them")


def _priority(given: Mapping[str, object], block: Mapping[str, object]) -> int:
    """`cairn.priority`, else SkyPilot's word for it, which has the same range."""
    least, most = -1000, 1000
    if block.get("priority") is not None:
        return _integer(block, "priority", "cairn", default=0, least=least, most=most)
    return _integer(given, "priority", "resources", default=0, least=least, most=most)


def _sweep(
    block: Mapping[str, object], envs: Mapping[str, str | None]
) -> tuple[tuple[str, tuple[str, ...]], ...]:
    if "sweep" not in block:
        return ()
    sweep = _mapping(block, "sweep", "cairn")
    _known(sweep, "cairn.sweep", frozenset({"parameters"}))
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
            raise invalid(path, f"is a list of values, such as [0.1, 0.01], not {show(values)}")
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


def _flavors(block: Mapping[str, object]) -> tuple[str, ...]:
    given = block.get("flavors")
    if given is None:
        return ()
    if not isinstance(given, list) or not given or not all(isinstance(one, str) for one in given):
        raise invalid("cairn.flavors", "is a list of flavors of the quota tree, such as [h100, a100-spot]")
    for one in given:
        if _FLAVOR.fullmatch(one) is None:
            raise invalid("cairn.flavors", f"{one[:80]!r} is not the name of a flavor")
    if len(set(given)) != len(given):
        raise invalid("cairn.flavors", "names a flavor twice")
    return tuple(given)


def _after(block: Mapping[str, object]) -> tuple[Wish, ...]:
    """Jobs and sweeps, each as an id or a name, with `:any` where it need not succeed."""
    given = block.get("after")
    if given is None:
        return ()
    named = [given] if isinstance(given, str) else given
    if not isinstance(named, list) or not all(isinstance(one, str) for one in named):
        raise invalid("cairn.after", "is a list of jobs or sweeps, such as [prepare, 01j9zk3m5q7r:any]")
    if len(named) > dependencies.MOST:
        raise invalid("cairn.after", f"names {len(named):,}; at most {dependencies.MOST} can be waited for")
    try:
        return tuple(dependencies.wish(one) for one in named)
    except ValueError as error:
        raise invalid("cairn.after", str(error)) from None

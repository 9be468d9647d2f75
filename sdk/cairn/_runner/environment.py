"""The environment that a task names: built once per content, then lent to all attempts that ask for the same.

`Preparation.run` finds out what is asked for, takes it from the shelf or has it built there, and lays the
attempt's own environment on top of it.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from cairn._runner import overlay, plans, recipe
from cairn._runner.plans import Impossible, Plan, Wanted
from cairn._runner.requirements import BadRequirements
from cairn._runner.shelf import Held, Shelf, Stopped

BUILD_SECONDS = 3600.0
TICK_SECONDS = 15
_SDK_NEEDS = (3, 11)
_SHOWN = 8


class BuildFailed(Exception):
    """The environment cannot be had. The message is for people.

    `place`: the fault is not the task's, and another try can help. `exit_code` and `signal` are those of what
    was run; `lines` what it printed.
    """

    def __init__(
        self, message: str, *, place: bool = False, lines: Sequence[str] = (),
        exit_code: int = 1, signal: int = 0,
    ) -> None:  # fmt: skip
        super().__init__(message)
        self.place = place
        self.lines = list(lines)
        self.exit_code = exit_code
        self.signal = signal


class ScriptEnd(Protocol):
    """How a script ended."""

    @property
    def exit_code(self) -> int | None: ...
    @property
    def signal(self) -> int: ...
    @property
    def stopped(self) -> bool: ...
    @property
    def timed_out(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class Tools:
    """What the attempt lends: a line for people, a pause that a stop ends, and a way to run a script.

    `run(script, variables, seconds)` runs it in the working directory, its output shown as it comes.
    """

    say: Callable[[str], None]
    pause: Callable[[float], bool]
    run: Callable[[str, Mapping[str, str], float], ScriptEnd]


@dataclass(frozen=True, slots=True)
class Room:
    """An environment to run in, and what is known of it: versions by package, a line for the run's record."""

    digest: str
    prefix: Path
    # What shows the SDK where the environment itself does not.
    python_path: str = ""
    conda: bool = False
    packages: Mapping[str, str] = field(default_factory=dict)
    told: str = ""

    def enter(self, variables: Mapping[str, str]) -> dict[str, str]:
        """The variables of a process in the environment."""
        inside = {
            **variables,
            "PATH": os.pathsep.join([str(self.prefix / "bin"), variables.get("PATH") or os.defpath]),
            "CONDA_PREFIX" if self.conda else "VIRTUAL_ENV": str(self.prefix),
            "CAIRN_ENVIRONMENT": self.digest,
        }
        inside.pop("PYTHONHOME", None)
        if self.python_path:
            known = variables.get("PYTHONPATH")
            inside["PYTHONPATH"] = os.pathsep.join([self.python_path, *([known] if known else [])])
        return inside


class Preparation:
    """One attempt's way to its environment.

    `work` is the working directory, `scratch` a folder of the attempt's own, `variables` the task's. `check`
    gets the lines that were asked for before anything is built; what it raises ends the preparation.
    """

    def __init__(
        self, wanted: Wanted, *, work: Path, scratch: Path, shelf: Shelf, tools: Tools,
        variables: Mapping[str, str], check: Callable[[Sequence[str]], None] = lambda lines: None,
    ) -> None:  # fmt: skip
        self._wanted = wanted
        self._work = work
        self._scratch = scratch
        self._shelf = shelf
        self._tools = tools
        self._variables = variables
        self._check = check

    def run(self) -> Room:
        """The environment, ready to use. Raises BuildFailed, Stopped, OSError, and what `check` does."""
        began = time.monotonic()
        self._scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
        plan = self._plan()
        self._check(plan.texts)
        held = self._shelf.take(
            plan.digest,
            lambda path: self._build(plan, path),
            waiting=lambda: self._tools.say(
                f"waiting for environment {plan.digest}: another attempt builds it"
            ),
        )
        room = self._enter(plan, held)
        how = "built" if held.built else "ready"
        self._tools.say(f"environment {room.told}: {how} in {time.monotonic() - began:.1f} s")
        return room

    def _plan(self) -> Plan:
        try:
            return plans.plan(self._wanted, work=self._work, scratch=self._scratch, variables=self._variables)
        except BadRequirements as error:
            block = "lock" if self._wanted.lock else "conda" if self._wanted.conda else "requirements"
            raise BuildFailed(f"cairn.env.{block}: {error}.") from error
        except Impossible as error:
            raise BuildFailed(str(error)) from error

    def _build(self, plan: Plan, path: Path) -> dict[str, Any]:
        version = f" with Python {plan.python}" if plan.python else ""
        self._tools.say(f"building environment {plan.digest}{version}")
        began = time.monotonic()
        with contextlib.ExitStack() as stack:
            tool = path
            if plan.tool is not None:
                held = self._tool(plan.tool)
                stack.callback(held.release)
                tool = held.path
            self._run(plan.script(path, tool), python=plan.python, path=path, variables=self._variables)
        if not (path / "bin" / "python").exists():
            raise BuildFailed("There is no Python in this environment: name `python` among its packages.")
        return {
            "python": _version(path) or plan.python,
            "packages": packages(path),
            "seconds": round(time.monotonic() - began, 1),
            "create_time": time.time(),
        }

    def _tool(self, plan: Plan) -> Held:
        """What builds the environment; kept on the shelf as one itself."""

        def build(path: Path) -> dict[str, Any]:
            self._tools.say("there is no conda on this machine: installing py-rattler, once, in its place")
            return self._build(plan, path)

        try:
            return self._shelf.take(
                plan.digest, build,
                waiting=lambda: self._tools.say("waiting for py-rattler: another attempt installs it"),
            )  # fmt: skip
        except BuildFailed as error:
            if error.signal:
                raise
            raise BuildFailed(
                f"{plans.NO_CONDA}: {error}", place=error.place, lines=error.lines,
                exit_code=error.exit_code, signal=error.signal,
            ) from error  # fmt: skip

    def _run(self, script: str, *, python: str, path: Path, variables: Mapping[str, str]) -> None:
        log = self._scratch / "environment.log"
        log.unlink(missing_ok=True)
        end = self._tools.run(_watched(script, log=log, path=path), variables, BUILD_SECONDS)
        if end.stopped:
            raise Stopped
        lines = log.read_text(errors="replace").splitlines() if log.exists() else []
        if end.timed_out:
            raise BuildFailed(
                f"The environment was not built within {BUILD_SECONDS / 60:.0f} minutes: use packages that "
                "have ready-made wheels, or an image.",
                lines=lines[-_SHOWN:], exit_code=124,
            )  # fmt: skip
        if end.signal:
            raise BuildFailed("", signal=end.signal, lines=lines[-_SHOWN:])
        if end.exit_code != 0:
            told = recipe.explain(lines, python=python or _version(path), code=end.exit_code)
            code = end.exit_code or 1
            raise BuildFailed(told.sentence, place=told.place, lines=told.lines, exit_code=code)

    def _enter(self, plan: Plan, held: Held) -> Room:
        installed: Mapping[str, str] = held.facts.get("packages") or {}
        python = str(held.facts.get("python") or "?")
        count = "1 package" if len(installed) == 1 else f"{len(installed)} packages"
        told = f"{plan.digest} (Python {python}, {count})"
        if plan.conda:
            sdk = self._scratch / "cairn-sdk"
            overlay.expose_sdk(sdk)
            return Room(
                plan.digest, held.path, python_path=str(sdk), conda=True, packages=installed, told=told
            )
        prefix = self._scratch / "env"
        overlay.lay(held.path, prefix)
        room = Room(plan.digest, prefix, packages=installed, told=told)
        if _too_old(python):
            self._tools.say(
                f"`import cairn` needs Python 3.11 or newer, this is {python}; what the command prints is "
                "recorded all the same"
            )
        if plan.editable:
            self._install_editable(room, plan)
        return room

    def _install_editable(self, room: Room, plan: Plan) -> None:
        """What belongs to one working directory goes into the attempt's own environment."""
        names = [word for each in plan.editable for word in ("-e", each)]
        self._tools.say(f"installing {shlex.join(names)} for this attempt alone")
        script = recipe.install(room.prefix, names, uv=None)
        self._run(script, python=plan.python, path=room.prefix, variables=room.enter(self._variables))


def packages(prefix: Path) -> dict[str, str]:
    """What is installed below `prefix`: names in the normal form, and versions."""
    from importlib.metadata import distributions

    found = {}
    for site in prefix.glob("lib/python3*/site-packages"):
        for each in distributions(path=[str(site)]):
            if each.name:
                found[each.name.lower().replace("_", "-").replace(".", "-")] = each.version
    return dict(sorted(found.items()))


def _watched(script: str, *, log: Path, path: Path) -> str:
    """The script with all its output in `log`, too, and a word every now and then of how far it is."""
    # Reading from a pipe that nobody writes to waits without a process that would have to be ended.
    return f"""set -o pipefail
exec 9<> <(:)
( while ! read -r -t {TICK_SECONDS} -u 9; do
    echo "cairn: $SECONDS s, $(du -sm {shlex.quote(str(path))} 2>/dev/null | cut -f1) MiB so far"
  done ) &
ticker=$!
( {script} ) 9>&- 2>&1 </dev/null | tee {shlex.quote(str(log))} 9>&-
code=$?
kill $ticker; wait $ticker 2>/dev/null
exit $code
"""


def _version(prefix: Path) -> str:
    """From the environment's own file; conda writes none, there the folder's name says it."""
    try:
        lines = (prefix / "pyvenv.cfg").read_text().splitlines()
    except OSError:
        sites = prefix.glob("lib/python3*/site-packages")
        return next((site.parent.name.removeprefix("python") for site in sites), "")
    found = dict(line.replace(" ", "").split("=", 1) for line in lines if "=" in line)
    return found.get("version") or found.get("version_info") or ""


def _too_old(version: str) -> bool:
    parts = version.split(".")[:2]
    return len(parts) == 2 and all(map(str.isdigit, parts)) and tuple(map(int, parts)) < _SDK_NEEDS

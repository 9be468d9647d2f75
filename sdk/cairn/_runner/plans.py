"""From what a task asks for to what is to be built: its identity, and the script that builds it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cairn._runner import pythons, recipe, requirements
from cairn._runner.pythons import Python
from cairn._runner.requirements import BadRequirements, Requirements

# Counted up when the same words come to mean another environment.
_FORMAT = 1
# Variables of the task that decide what an index gives.
_DECIDING = ("PIP_", "UV_", "CONDA_")


NO_CONDA = (
    "cairn.env.conda: there is no micromamba, mamba or conda on this machine's PATH, and py-rattler cannot "
    "be had in their place (install one of them, or give `requirements`)"
)


class Impossible(Exception):
    """What is asked for cannot be built on this machine. The message is for people."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """`environment` of launch.json; of requirements, lock and conda one at most. Files are in the workdir."""

    python: str = ""
    requirements: Sequence[str] = ()
    requirements_file: str = ""
    lock: str = ""
    conda: str = ""

    @classmethod
    def parse(cls, raw: Mapping[str, Any]) -> Wanted:
        """Fields that a later scheduler may add are passed over."""
        return cls(**{name: raw[name] for name in cls.__slots__ if raw.get(name) is not None})


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be built: `script(path, tool)` is what bash runs for it in the working directory.

    `python` is the version, as far as it is known. `editable` is installed for the attempt alone; `texts` are
    the lines that were asked for. `tool` is an environment that has to be there to build this one.
    """

    digest: str
    script: Callable[[Path, Path], str]
    python: str
    texts: tuple[str, ...] = ()
    editable: tuple[str, ...] = ()
    conda: bool = False
    tool: Plan | None = None


def plan(wanted: Wanted, *, work: Path, scratch: Path, variables: Mapping[str, str]) -> Plan:
    """Reads what is named in `work`; `variables` are the task's. Raises Impossible or BadRequirements."""
    planner = _Planner(wanted, work, scratch, variables)
    if wanted.conda:
        return planner.by_conda()
    return planner.by_lock() if wanted.lock else planner.by_requirements()


@dataclass(frozen=True, slots=True)
class _Planner:
    wanted: Wanted
    work: Path
    scratch: Path
    variables: Mapping[str, str]

    @property
    def path(self) -> str:
        return self.variables.get("PATH") or os.defpath

    def by_requirements(self) -> Plan:
        wanted = self.wanted
        if wanted.requirements_file:
            found = requirements.read(self.work, wanted.requirements_file)
        else:
            found = requirements.parse(self.work, wanted.requirements)
        python = pythons.find(wanted.python, path=self.path)
        uv = recipe.find_uv(self.path, self.variables)
        if python is None or not python.seeds:
            uv = uv or recipe.any_uv(self.path)
            if uv is None:
                raise Impossible(self._no_python(python))
        return Plan(
            self._digest("requirements", python, found.lines, found.constraints, found=found),
            lambda path, _: self._script(path, found, python, uv),
            python.text if python else wanted.python,
            texts=found.lines,
            editable=found.editable,
        )

    def by_lock(self) -> Plan:
        uv = recipe.any_uv(self.path)
        if uv is None:
            raise Impossible(
                "cairn.env.lock: there is no `uv` on this machine: install it (`pip install uv`) beside the "
                "runner or on PATH, or give `requirements` (`uv export -o requirements.txt`)."
            )
        python = pythons.find(self.wanted.python, path=self.path)
        lock = self.wanted.lock
        texts = [self._text(lock), self._text(os.path.join(os.path.dirname(lock), "pyproject.toml"))]
        project = (self.work / lock).parent
        chosen = python.executable if python else self.wanted.python
        # A project that is a package belongs to its working directory, as what `-e` names does.
        editable = (os.path.relpath(project, self.work),) if "[build-system]" in texts[1] else ()
        return Plan(
            self._digest("lock", python, texts),
            lambda path, _: recipe.sync(uv, path, project=project, python=chosen),
            python.text if python else self.wanted.python,
            editable=editable,
        )

    def by_conda(self) -> Plan:
        name, program = self.wanted.conda, recipe.find_conda(self.path)
        text, file = self._text(name), self.work / self.wanted.conda
        found = requirements.parse_conda(file.parent, text)
        if found.editable:
            raise BadRequirements(
                name,
                f"`-e {found.editable[0]}` belongs to one working directory, and this environment to all "
                "that name it: take it out, and put that folder into PYTHONPATH (`envs`)",
            )

        def script(path: Path, tool: Path) -> str:
            return recipe.conda(program, path, file) if program else recipe.rattler(tool, path, file)

        return Plan(
            self._digest("conda", None, [text, *found.lines, *found.constraints], found=found),
            script,
            "",
            conda=True,
            tool=None if program else self._rattler(),
        )

    def _rattler(self) -> Plan:
        wanted = Wanted(requirements=recipe.RATTLER)
        try:
            return _Planner(wanted, self.work, self.scratch, self.variables).by_requirements()
        except Impossible as error:
            raise Impossible(f"{NO_CONDA}: {error}") from error

    def _script(self, path: Path, found: Requirements, python: Python | None, uv: str | None) -> str:
        if python is not None and python.seeds:
            made = recipe.venv(python.executable, path)
        else:
            assert uv is not None
            made = recipe.uv_venv(uv, python.executable if python else self.wanted.python, path)
        if not found.lines:
            return made
        if self.wanted.requirements_file and not found.editable:
            arguments = ["-r", self.wanted.requirements_file]
        else:
            # Lines that stand in no file, or whose file also names what is the attempt's own.
            arguments = ["-r", self._write("requirements.txt", found.lines)]
            if found.constraints:
                arguments += ["-c", self._write("constraints.txt", found.constraints)]
        return f"{made} && {recipe.install(path, arguments, uv=uv)}"

    def _digest(
        self, kind: str, python: Python | None, *texts: Sequence[str], found: Requirements | None = None
    ) -> str:
        """Of all that decides what comes to be; 16 hexadecimal digits."""
        local = found.local if found else ()
        names = {name for name in self.variables if name.startswith(_DECIDING)}
        names |= set(found.variables if found else ())
        content = [
            _FORMAT,
            kind,
            [python.executable, python.text] if python else self.wanted.python,
            pythons.machine(),
            texts,
            [(path.name, requirements.fingerprint(path)) for path in local],
            {name: self.variables.get(name, "") for name in sorted(names)},
        ]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]

    def _no_python(self, python: Python | None) -> str:
        if python is not None:
            return (
                f"{python.executable} cannot make environments: install its `venv` module "
                f"(on Debian: apt install python{'.'.join(python.text.split('.')[:2])}-venv), or `uv`."
            )
        here = ", ".join(pythons.known(self.path)) or "none"
        return (
            f"cairn.env.python: there is no Python {self.wanted.python} on this machine (there are: {here}), "
            "and no `uv` that could fetch one: choose one of these, or install it."
        )

    def _text(self, name: str) -> str:
        try:
            return (self.work / name).read_text()
        except FileNotFoundError:
            raise BadRequirements(name, f"there is no file {name} in the working directory") from None
        except (OSError, UnicodeDecodeError) as error:
            raise BadRequirements(name, f"{name} cannot be read: {error}") from error

    def _write(self, name: str, lines: Sequence[str]) -> str:
        self.scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self.scratch / name
        path.write_text("".join(f"{line}\n" for line in lines))
        return str(path)

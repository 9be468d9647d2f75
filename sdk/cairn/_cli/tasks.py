"""Task files: read, changed by options, or made from a command."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cairn._cli import environments, mounts, secrets
from cairn._cli.errors import USAGE, CliError

_NOT_IN_NAME = re.compile(r"[^a-zA-Z0-9]+")


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the options of `cairn run` ask for; None and empty: as the file says."""

    experiment: str = ""
    priority: int | None = None
    cpus: str = ""
    gpus: str = ""
    memory: str = ""
    max_runtime: str = ""
    retries: int | None = None
    # Jobs that are to end before; beside those that the file names.
    after: tuple[str, ...] = ()
    envs: dict[str, str] = field(default_factory=dict)
    workdir: str | None = None
    infra: str = ""
    # A requirements file, as it was typed.
    requirements: str = ""
    # None: its value is not known here.
    secrets: dict[str, str | None] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Task:
    """A task's text, the folder to pack (None: no code), and a name for people."""

    text: str
    workdir: Path | None
    sweep: bool = False
    name: str = ""
    # What goes along beside the text: secrets' values, and what `file_mounts` has on this machine.
    secrets: dict[str, str] = field(default_factory=dict, repr=False)
    mounts: Sequence[mounts.Mount] = ()


def from_file(path: Path, wishes: Wishes, *, fetch: Callable[[str, str], Path] | None = None) -> Task:
    """A task file with the options laid over it; without options its text as it is. Raises `CliError`.

    `fetch(url, ref)` brings a repository that is named as `workdir`.
    """
    text = _read(path)
    task = _parse(text, path)
    workdir = _workdir(task, path, wishes, fetch)
    changed = _overlay(task, wishes, workdir)
    environments.check(task, workdir)
    cairn = task.get("cairn")
    return Task(
        text=to_yaml(task) if changed else text,
        workdir=workdir,
        sweep=isinstance(cairn, dict) and "sweep" in cairn,
        name=path.stem,
        secrets=secrets.complete(task, wishes.secrets),
        mounts=mounts.find(task, path.parent),
    )


def from_command(command: Sequence[str], wishes: Wishes) -> Task:
    """A task that runs a command in the current folder. One argument alone is a line for the shell."""
    task: dict[str, Any] = {"name": name_of(command), "workdir": "."}
    workdir = _folder(Path.cwd(), wishes.workdir or ".")
    _overlay(task, wishes, workdir)
    environments.check(task, workdir)
    task["run"] = command[0] if len(command) == 1 else shlex.join(command)
    values = secrets.complete(task, wishes.secrets)
    return Task(text=to_yaml(task), workdir=workdir, name=str(task["name"]), secrets=values)


def name_of(command: Sequence[str]) -> str:
    """`python train.py --lr 3` is `train`: the first script, else the program."""
    words = list(command) if len(command) > 1 else command[0].split()
    script = next((word for word in words if word.endswith((".py", ".sh"))), words[0] if words else "job")
    if "-m" in words[:-1] and not script.endswith((".py", ".sh")):
        script = words[words.index("-m") + 1].rsplit(".", 1)[-1]
    return _NOT_IN_NAME.sub("-", Path(script).stem).strip("-")[:60] or "job"


def workdir_of(given: str) -> Path:
    """The folder to take along, as named here. Raises `CliError`."""
    return _folder(Path.cwd(), given)


def parse_envs(pairs: Sequence[str], option: str = "--env") -> dict[str, str]:
    """`K=V`, or `K` alone with this shell's value. Raises `CliError`."""
    envs = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals and key not in os.environ:
            raise CliError(
                f"{option} {key}: there is no such variable here; give {option} {key}=VALUE", code=USAGE
            )
        envs[key] = value if equals else os.environ[key]
    return envs


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise CliError(
            f"there is no task file {path}", code=USAGE, hint=f"to run a command: cairn run -- {path} ..."
        ) from None
    except IsADirectoryError:
        raise CliError(f"{path} is a folder, not a task file", code=USAGE) from None
    except UnicodeDecodeError:
        raise CliError(f"{path} is not text (UTF-8)", code=USAGE) from None
    except OSError as error:
        raise CliError(f"{path} cannot be read: {error.strerror}", code=USAGE) from error


def _parse(text: str, path: Path) -> dict[str, Any]:
    import yaml

    try:
        task = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
        raise CliError(f"{where}: {error.problem or error.context}", code=USAGE) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise CliError(f"{path} is not YAML: {error}", code=USAGE) from None
    if not isinstance(task, dict):
        raise CliError(f"{path} is no task: it needs fields such as `run: python train.py`", code=USAGE)
    return task


def _overlay(task: dict[str, Any], wishes: Wishes, workdir: Path | None) -> bool:
    """Writes the options into the task; whether there were any."""
    before = repr(task)
    secrets.declare(task, list(wishes.secrets))
    if wishes.infra:
        _move(task)
    if wishes.requirements:
        _set_requirements(task, wishes.requirements, workdir)
    _set(
        task, "resources",
        {
            "infra": wishes.infra, "cpus": wishes.cpus, "memory": wishes.memory,
            "accelerators": gpus_wanted(wishes.gpus),
        },
    )  # fmt: skip
    _set(task, "envs", wishes.envs)
    _set(
        task, "cairn",
        {
            "experiment": wishes.experiment, "priority": wishes.priority, "max_runtime": wishes.max_runtime,
            "max_retries": wishes.retries, "after": _after(task, wishes.after),
        },
    )  # fmt: skip
    return repr(task) != before


def _after(task: dict[str, Any], wished: Sequence[str]) -> list[str] | None:
    """What the file names, and the options beside it."""
    if not wished:
        return None
    block = task.get("cairn")
    given = (block.get("after") if isinstance(block, dict) else None) or []
    named = [given] if isinstance(given, str) else given
    if not isinstance(named, list):
        raise CliError("cairn.after: is to be a list, so that --after can add to it", code=USAGE)
    return [*named, *(one for one in wished if one not in named)]


def _workdir(
    task: dict[str, Any], path: Path, wishes: Wishes, fetch: Callable[[str, str], Path] | None
) -> Path | None:
    if wishes.workdir is not None:
        if isinstance(task.get("workdir"), dict):
            del task["workdir"]
        return _folder(Path.cwd(), wishes.workdir)
    given = task.get("workdir")
    if isinstance(given, dict) and isinstance(given.get("url"), str) and fetch is not None:
        return fetch(given["url"], str(given.get("ref") or ""))
    return _folder(path.parent, given) if isinstance(given, str) and given.strip() else None


def _move(task: dict[str, Any]) -> None:
    """Takes out where the file itself wants to run: `--infra` says that for all of its choices."""
    resources = task.get("resources")
    if not isinstance(resources, dict):
        return
    places = ("infra", "cloud", "region", "zone")
    resources = {name: value for name, value in resources.items() if name not in places}
    for block in ("any_of", "ordered"):
        if isinstance(entries := resources.get(block), list):
            left = [
                {name: value for name, value in entry.items() if name not in places}
                if isinstance(entry, dict)
                else entry
                for entry in entries
            ]
            resources[block] = [
                entry for place, entry in enumerate(left) if entry and entry not in left[:place]
            ]
            if not resources[block]:
                del resources[block]
    task["resources"] = resources


def _set(task: dict[str, Any], block: str, values: dict[str, Any]) -> None:
    given = {key: value for key, value in values.items() if value not in ("", None) or block == "envs"}
    if not given:
        return
    if not isinstance(task.get(block) or {}, dict):
        raise CliError(f"{block}: is to be a mapping of fields, so that options can change it", code=USAGE)
    task[block] = {**(task.get(block) or {}), **given}


def _set_requirements(task: dict[str, Any], given: str, workdir: Path | None) -> None:
    """In place of what else the file's environment is made from; its Python stays."""
    if workdir is None:
        raise CliError("--requirements needs a working directory: give --workdir, too", code=USAGE)
    block = task.get("cairn")
    env = block.get("env") if isinstance(block, dict) else None
    python = env.get("python") if isinstance(env, dict) else None
    requirements = environments.inside(given, workdir)
    _set(task, "cairn", {"env": {**({"python": python} if python else {}), "requirements": requirements}})


def gpus_wanted(given: str) -> str:
    """`2` is any two GPUs; `A100:2` is what SkyPilot writes."""
    return f"GPU:{given}" if given.isdigit() else given


def _folder(base: Path, given: str) -> Path:
    folder = base / Path(given).expanduser()
    if not folder.is_dir():
        raise CliError(f"workdir: {folder} is not a folder", code=USAGE, hint="name another one by --workdir")
    return folder


def to_yaml(task: dict[str, Any]) -> str:
    """A task file's text; scripts stand in it as they were written."""
    import yaml

    class Dumper(yaml.SafeDumper):
        def represent_str(self, data: str) -> Any:
            return self.represent_scalar("tag:yaml.org,2002:str", data, style="|" if "\n" in data else None)

    Dumper.add_representer(str, Dumper.represent_str)
    return str(yaml.dump(task, Dumper=Dumper, sort_keys=False, allow_unicode=True, default_flow_style=False))

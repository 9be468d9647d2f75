"""What an environment.yml says, built by py-rattler where a machine has no conda program.

A script of its own: it runs in an environment that has py-rattler and PyYAML (see recipe.RATTLER), never in
the runner or in what it builds, and imports nothing of this package. It ends with 0; with 1 after a line that
begins with PREFIX and says what is wrong in the file; with RETRY after one that says what the network or the
machine refused; or as pip does.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import re
import shlex
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import rattler
import yaml
from rattler.exceptions import (
    GatewayError,
    InstallerError,
    InvalidChannelError,
    InvalidMatchSpecError,
    InvalidUrlError,
    SolverError,
)

PREFIX = "cairn.env.conda: "
RETRY = os.EX_TEMPFAIL
_KNOWN = {"name", "channels", "dependencies", "prefix"}
_DEFAULTS = ("https://repo.anaconda.com/pkgs/main", "https://repo.anaconda.com/pkgs/r")
_ALIAS = "https://conda.anaconda.org/"
_SECRET = re.compile(r"(?<=//)[^/@\s]+(?=@)|(?<=/t/)[^/\s]+")
# A requirement with options of its own (`--hash`) may only stand in a file.
_PIP_FILE = "conda-meta/cairn-requirements.txt"


class Failed(Exception):
    """The message is for people. `code`: 1 where the file is at fault, RETRY where a new try can help."""

    def __init__(self, message: str, *, code: int = 1) -> None:
        super().__init__(_SECRET.sub("***", message))
        self.code = code


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the file asks for; channels are names or URLs, first the most important one."""

    channels: tuple[str, ...]
    specs: tuple[str, ...]
    pip: tuple[str, ...]


def main() -> NoReturn:
    """Never comes back: it becomes pip, or ends at once.

    An interpreter that ends in the ordinary way takes down what rattler's threads may still be using: on a
    busy machine every sixth process was then ended by SIGABRT or SIGSEGV, with all its work done.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--prefix", required=True, type=Path)
    parser.add_argument("--cache", required=True, type=Path)
    parser.add_argument("file", type=Path)
    given = parser.parse_args()
    code = 0
    try:
        wanted = read(given.file)
        asyncio.run(_build(wanted, prefix=given.prefix, cache=given.cache))
        if wanted.pip:
            _become_pip(wanted.pip, prefix=given.prefix, folder=given.file.parent)
    except Failed as error:
        _say(f"{PREFIX}{error}")
        code = error.code
    except BaseException as error:  # whatever it is, it has to be seen before the process is gone
        sys.excepthook(type(error), error, error.__traceback__)
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def read(file: Path) -> Wanted:
    """Raises Failed."""
    try:
        content = yaml.safe_load(file.read_text())
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" line {mark.line + 1}:" if mark else ""
        problem = getattr(error, "problem", None) or "it cannot be read"
        raise Failed(f"{file.name} is no YAML:{place} {problem}. Correct it.") from error
    if not isinstance(content, dict):
        raise Failed(f"{file.name} is no mapping: give it `channels:` and `dependencies:`.")
    for unknown in sorted(map(str, set(content) - _KNOWN)):
        more = ": put these into the task's `envs`" if unknown == "variables" else ""
        _say(f"`{unknown}` in {file.name} is not looked at{more}")
    items = content.get("dependencies") or []
    if not isinstance(items, list):
        raise Failed(f"`dependencies` in {file.name} is no list: write each package as `- name=version`.")
    pip: list[str] = []
    specs: list[str] = []
    for item in items:
        if isinstance(item, dict) and set(item) == {"pip"}:
            pip += _texts(item["pip"], f"`pip` in {file.name}")
        else:
            specs += _texts([item], f"`dependencies` in {file.name}")
    channels = _texts(content.get("channels"), f"`channels` in {file.name}")
    return Wanted(tuple(_channels(channels)), tuple(specs), tuple(pip))


def _texts(items: Any, where: str) -> list[str]:
    items = [] if items is None else items
    wrong = items if not isinstance(items, list) else [one for one in items if not isinstance(one, str)]
    if wrong or not isinstance(items, list):
        told = yaml.safe_dump(wrong, default_flow_style=True).splitlines()[0]
        raise Failed(f"{where} is to be a list of texts, and has {told}. Quote it, or correct it.")
    return [item.strip() for item in items if item.strip()]


def _channels(named: Sequence[str]) -> list[str]:
    """As conda has them: variables are filled in, `defaults` is Anaconda's own."""
    found: list[str] = []
    for each in map(os.path.expandvars, named or ["conda-forge"]):
        found += _DEFAULTS if each == "defaults" else [] if each == "nodefaults" else [each]
    return found or ["conda-forge"]


async def _build(wanted: Wanted, *, prefix: Path, cache: Path) -> None:
    specs = [_spec(each) for each in wanted.specs]
    if wanted.pip and not any(_name(spec) == "pip" for spec in specs):
        specs.append(_spec("pip"))
    channels = [_channel(each) for each in wanted.channels]
    # What a package names itself (`nvidia::cuda`) is asked, too, after the others.
    for spec in specs:
        if spec.channel is not None and all(spec.channel.base_url != known.base_url for known in channels):
            channels.append(spec.channel)
    names = ", ".join(_SECRET.sub("***", channel.base_url) for channel in channels)
    _say(f"solving {_count(len(specs), 'package')} of {names}")
    records = await _solve(specs, channels, names, cache)
    if not any(record.name.normalized == "python" for record in records):
        raise Failed("There is no Python in this environment: name `python` among its `dependencies`.")
    size = sum(record.size or 0 for record in records) / 2**20
    _say(f"installing {_count(len(records), 'package')}, packed {size:.1f} MiB")
    try:
        await rattler.install(
            records, target_prefix=prefix, cache_dir=cache / "packages", show_progress=False,
            execute_link_scripts=True,
        )  # fmt: skip
    except InstallerError as error:
        told = _chain(error)
        raise Failed(f"The packages could not be installed: {told}.", code=RETRY) from error
    missing = [record.file_name for record in records if not _is_installed(record, prefix)]
    if missing:
        raise Failed(f"These packages are not there after all: {', '.join(missing)}.", code=RETRY)


async def _solve(
    specs: Sequence[rattler.MatchSpec], channels: Sequence[rattler.Channel], names: str, cache: Path
) -> list[rattler.RepoDataRecord]:
    gateway = rattler.Gateway(cache_dir=cache / "channels")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            machine = rattler.VirtualPackage.detect()
            found = await rattler.solve(channels, specs, gateway=gateway, virtual_packages=machine)
            return list(found)
    except GatewayError as error:
        raise _unreachable(_chain(error), names) from error
    except SolverError as error:
        raise _unsolvable(str(error), names) from error


def _unreachable(told: str, names: str) -> Failed:
    if gone := re.search(r"could not find subdir '\S+' in channel '(\S+?)/?'", told):
        return Failed(f"There is no conda channel at {gone[1]}: correct `channels`.")
    if refused := re.search(r"\((401|403)[^)]*\) for url \((\S+?)\)", told):
        return Failed(
            f"A channel refused ({refused[1]} for {refused[2]}): give `channels` its address with "
            "credentials, or a channel that needs none."
        )
    if "failed to parse" in told:
        return Failed(f"A channel of {names} answers with no list of packages ({told}): correct `channels`.")
    return Failed(
        f"{names} could not be reached ({told.rpartition('; ')[2]}): where this machine has no way there, "
        "name a mirror in `channels`.",
        code=RETRY,
    )


def _unsolvable(told: str, names: str) -> Failed:
    here = f"{platform.system()} {platform.machine()}"
    told = told.removeprefix("Cannot solve the request because of: ").strip()
    if missing := re.fullmatch(r"No candidates were found for (.+?)( \*)?\.", told):
        return Failed(
            f"There is no package `{missing[1]}` for {here} in {names}: check its name and version, or add "
            "the channel that has it."
        )
    _say(told)
    if machine := re.search(r"(\S.*) would require\s+\S+ (__\w+ [^,\n]+), for which no candidates", told):
        return Failed(
            f"`{machine[1].lstrip('├─└│ ')}` needs `{machine[2]}`, which this machine does not have: choose "
            "another version, or a machine that has it."
        )
    if deep := re.search(r"(\S.*) would require\s+\S+ ([^,\n]+), for which no candidates", told):
        name = deep[2].removesuffix(" *")
        return Failed(
            f"`{deep[1].lstrip('├─└│ ')}` needs `{name}`, which is not in {names}: add the channel that has "
            "it, or choose another version."
        )
    return Failed(f"These packages cannot be met together: {' '.join(told.split())}")


def _spec(text: str) -> rattler.MatchSpec:
    try:
        return rattler.MatchSpec(text, strict=False)
    except InvalidMatchSpecError as error:
        raise Failed(f"`{text}` is no package as conda writes it ({error}): `name=version`, say.") from error


def _name(spec: rattler.MatchSpec) -> str:
    return str(getattr(spec.name, "normalized", spec.name))


def _channel(name: str) -> rattler.Channel:
    try:
        alias = os.environ.get("CONDA_CHANNEL_ALIAS") or _ALIAS
        return rattler.Channel(name, rattler.ChannelConfig(channel_alias=alias))
    except (InvalidChannelError, InvalidUrlError) as error:
        raise Failed(f"`{name}` is no conda channel ({error}): correct `channels`.") from error


def _is_installed(record: rattler.RepoDataRecord, prefix: Path) -> bool:
    stem = f"{record.name.normalized}-{record.version}-{record.build}"
    return (prefix / "conda-meta" / f"{stem}.json").is_file()


def _become_pip(lines: Sequence[str], *, prefix: Path, folder: Path) -> NoReturn:
    """Installs in the folder of the file, where relative paths begin, with the new environment's pip."""
    options = [word for line in lines if line.startswith("-") for word in shlex.split(line, comments=True)]
    plain = [line for line in lines if not line.startswith("-")]
    python = str(prefix / "bin" / "python")
    command = [python, "-m", "pip", "--no-input", "--disable-pip-version-check", "install", *options]
    if plain:
        (prefix / _PIP_FILE).write_text("".join(f"{line}\n" for line in plain))
        command += ["-r", str(prefix / _PIP_FILE)]
    inside = {
        **os.environ, "PYTHONNOUSERSITE": "1", "CONDA_PREFIX": str(prefix),
        "PATH": os.pathsep.join([str(prefix / "bin"), os.environ.get("PATH") or os.defpath]),
    }  # fmt: skip
    _say(f"installing {_count(len(lines), 'line')} of `pip`")
    os.chdir(folder)
    os.execve(python, command, inside)  # noqa: S606 - a path that was just made


def _chain(error: Exception) -> str:
    """What went wrong, and the cause at its root."""
    lines = [line.removeprefix("Caused by: ").strip(" .") for line in str(error).splitlines() if line.strip()]
    return "; ".join(dict.fromkeys([lines[0], lines[-1]])) if lines else type(error).__name__


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _say(text: str) -> None:
    # At once, and in the order in which pip's own lines follow.
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()

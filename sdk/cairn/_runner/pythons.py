"""The Python interpreters of this machine, to make environments from."""

from __future__ import annotations

import functools
import glob
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

_PROBE_SECONDS = 20.0
_PROBE = (
    "import importlib.util as u, json, sys; print(json.dumps([list(sys.version_info[:3]),"
    " getattr(sys, '_base_executable', sys.executable),"
    " bool(u.find_spec('ensurepip') and u.find_spec('venv'))]))"
)


@dataclass(frozen=True, slots=True)
class Python:
    """An interpreter outside of every environment. `seeds`: it can make an environment with pip by itself."""

    executable: str
    version: tuple[int, int, int]
    seeds: bool

    @property
    def text(self) -> str:
        return ".".join(map(str, self.version))


def find(wanted: str, *, path: str) -> Python | None:
    """An interpreter of this version (`3.11`, `3.11.7`; empty: the one that runs this), if there is one."""
    for executable in _candidates(wanted, path):
        found = _probe(executable)
        if found is not None and _fits(found, wanted):
            return found
    return None


def known(path: str) -> list[str]:
    """The versions that are here, for a message."""
    found = {
        python.version: python.text
        for minor in range(8, 20)
        for executable in _candidates(f"3.{minor}", path)
        if (python := _probe(executable)) is not None
    }
    return [found[version] for version in sorted(found)]


def machine() -> str:
    """What a compiled package depends on besides the interpreter."""
    return " ".join([platform.system(), platform.machine(), *platform.libc_ver()])


def _fits(python: Python, wanted: str) -> bool:
    return not wanted or f"{python.text}.".startswith(f"{wanted}.")


def _candidates(wanted: str, path: str) -> Iterator[str]:
    """Most likely first; names may come twice, and lead nowhere."""
    if not wanted or f"{'.'.join(map(str, sys.version_info[:3]))}.".startswith(f"{wanted}."):
        yield getattr(sys, "_base_executable", None) or sys.executable
    if not wanted:
        return
    short = ".".join(wanted.split(".")[:2])
    for folder in [*path.split(os.pathsep), "/usr/local/bin", "/usr/bin"]:
        for name in (f"python{short}", "python3"):
            executable = os.path.join(folder, name)
            if os.access(executable, os.X_OK):
                yield executable
    home = os.path.expanduser("~")
    for pattern in (
        f"{home}/.pyenv/versions/{short}*/bin/python",
        f"{home}/.local/share/uv/python/cpython-{short}.*/bin/python3",
        f"/opt/python*/bin/python{short}",
    ):
        yield from sorted(glob.glob(pattern), reverse=True)


@functools.cache
def _probe(executable: str) -> Python | None:
    """Asks it: names lie, and a version manager's shim may refuse."""
    try:
        told = subprocess.run(
            [executable, "-I", "-c", _PROBE], capture_output=True, timeout=_PROBE_SECONDS, check=True,
            stdin=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        version, base, seeds = json.loads(told.stdout)
        return Python(str(base), (int(version[0]), int(version[1]), int(version[2])), bool(seeds))
    except (OSError, subprocess.SubprocessError, ValueError, IndexError, TypeError):
        return None

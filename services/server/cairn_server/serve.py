"""One service in this process, until SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import gc
import importlib
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cairn_common.log import configure_logging
from cairn_common.settings import SettingsError
from cairn_server import SERVICES

ENV_FILE = "CAIRN_ENV_FILE"


def serve(name: str) -> None:
    """Runs service `name` by the settings in the environment (and in the file that CAIRN_ENV_FILE names).

    Raises `SettingsError` where one is missing or wrong.
    """
    if name not in SERVICES:
        raise SettingsError(f"there is no service {name}; the services are {', '.join(SERVICES)}")
    given = os.environ.get(ENV_FILE)
    if given:
        os.environ.update(_missing(read_env(Path(given)), os.environ))
    configure_logging(name, os.environ.get("CAIRN_LOG_LEVEL", "INFO"))
    settings_module: Any = importlib.import_module(f"cairn_{name}.settings")
    app: Any = importlib.import_module(f"cairn_{name}.app")
    settings = getattr(settings_module, f"{name.title()}Settings").load()
    # What was imported stays: looking through it again and again is a tenth of what a large answer costs.
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(app.serve(settings))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's, where there is one: it sends what a request writes at once, which saves system calls."""
    if sys.platform == "win32":
        return None
    import uvloop

    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def read_env(path: Path) -> dict[str, str]:
    """KEY=value lines. Raises `SettingsError` where the file cannot be read."""
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        raise SettingsError(f"{ENV_FILE}: cannot read {path}: {error.strerror}") from error
    pairs = (line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
    return {key.strip(): value for key, value in pairs}


def _missing(found: Mapping[str, str], env: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in found.items() if not env.get(key)}

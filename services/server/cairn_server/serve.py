"""One service in this process, until SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import gc
import importlib
import os
import sys
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

import structlog

from cairn_common import variables
from cairn_common.log import configure_logging
from cairn_common.settings import SettingsError
from cairn_server import SERVICES

ENV_FILE = "CAIRN_ENV_FILE"
ENOUGH_FILES = 4096
"""For 2,000 connections, and all else that a service opens."""
_MOST_FILES = 65_536

log = structlog.get_logger(__name__)


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
    raise_file_limit()
    settings_module: Any = importlib.import_module(f"cairn_{name}.settings")
    app: Any = importlib.import_module(f"cairn_{name}.app")
    run_here(app.serve(getattr(settings_module, f"{name.title()}Settings").load()))


def run_here(work: Coroutine[Any, Any, None]) -> None:
    """Runs a service's work as each service runs: what it needs is imported."""
    # What was imported stays: looking through it again and again is a tenth of what a large answer costs.
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(work)


def raise_file_limit() -> int:
    """Lets this process open as many files and connections as it may; how many. The log says of few.

    What it was started with stands in its environment: so many are for the jobs that it starts.
    """
    if sys.platform == "win32":
        return ENOUGH_FILES
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        os.environ[variables.FILES] = str(soft)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        soft = most
    if soft != resource.RLIM_INFINITY and soft < ENOUGH_FILES:
        log.warning(
            "files.few", most=soft, enough=ENOUGH_FILES, remedy="LimitNOFILE of the unit, or ulimit -n"
        )
    return soft


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

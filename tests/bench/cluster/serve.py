"""The scheduler as it is, but for the place where its jobs run: ``python -m tests.bench.cluster.serve``."""

from __future__ import annotations

import asyncio
import signal

from cairn_common.log import configure_logging
from cairn_scheduler.app import SCHEMA, run
from cairn_scheduler.settings import SchedulerSettings
from cairn_server.serve import run_here
from tests.bench.cluster.timed import open_timed


async def main() -> None:
    """Runs until SIGTERM."""
    settings = SchedulerSettings.load()
    configure_logging(SCHEMA, settings.log_level)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await run(settings, stop=stop, opening=open_timed)


if __name__ == "__main__":
    run_here(main())

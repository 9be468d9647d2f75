"""Parts are read, and brought to the disk, while the others of their version are still on their way."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping
from typing import Final, NoReturn

import structlog

from cairn_common.errors import Unavailable
from cairn_common.objects import ObjectStore

log = structlog.get_logger(__name__)

# Keys that wait to be looked at: what is more is looked at by the commit.
_MOST: Final = 10_000
_TOGETHER: Final = 8
#: How many should `keep_going`: one reads while the other waits for the disk.
LANES: Final = 2


class Ahead:
    """What was said to be in the store. A hint: what is not looked at here is looked at by the commit."""

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects
        self._wanted: dict[str, str] = {}
        self._some = asyncio.Event()

    def note(self, wanted: Mapping[str, str]) -> None:
        """Keys with the SHA-256 (hex) that their bytes are to have."""
        for key, digest in wanted.items():
            if len(self._wanted) < _MOST:
                self._wanted[key] = digest
        self._some.set()

    async def keep_going(self) -> NoReturn:
        """Looks at what was noted, a few at a time: callers come first. Several may do so."""
        while True:
            await self._some.wait()
            self._some.clear()
            while self._wanted:
                keys = list(itertools.islice(self._wanted, _TOGETHER))
                try:
                    await self._objects.look_ahead({key: self._wanted.pop(key) for key in keys})
                except Unavailable as error:
                    log.warning("ahead.store_away", error=error.message)

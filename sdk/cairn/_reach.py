"""The bus, by whichever way there is: its own port, or a WebSocket through the gateway."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from cairn._link import Link, Listen, Trouble

# Where a firewall says nothing, the gateway is asked after this; the port itself has the time it always has.
HEAD_START_SECONDS = 1.0
#: How long the way through the gateway is used before the bus's own port is tried again.
DETOUR_SECONDS = 600.0

_TROUBLES = (OSError, ValueError, Trouble)


class Way:
    """A link, and whether the bus's own port should be tried again."""

    def __init__(self, link: Link, *, detour: bool) -> None:
        self.link = link
        self.detour = detour
        self._opened = time.monotonic()

    @property
    def worn(self) -> bool:
        """It was good for want of a better one, long enough."""
        return self.detour and time.monotonic() >= self._opened + DETOUR_SECONDS


async def reach(
    bus_url: Callable[[], str], *, gateway: str, token: str, listens: Sequence[Listen] = ()
) -> Way:
    """The bus itself; where it gives no answer soon, through the gateway, if that is known.

    Raises OSError, ValueError or Trouble.
    """
    direct = asyncio.ensure_future(_direct(bus_url, token, listens))
    tries = [direct]
    try:
        await asyncio.wait(tries, timeout=HEAD_START_SECONDS if gateway else None)
        if gateway and not _good(direct):
            tries.append(asyncio.ensure_future(_through(gateway, token, listens)))
        pending = set(tries)
        while pending and not any(map(_good, tries)):
            _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        found = next(filter(_good, tries), None)
        if found is None:
            raise _told([one.exception() for one in tries], gateway)
        tries.remove(found)
        return Way(found.result(), detour=found is not direct)
    finally:
        await _end(tries)


async def _direct(bus_url: Callable[[], str], token: str, listens: Sequence[Listen]) -> Link:
    return await Link.open(bus_url(), token, listens=listens)


async def _through(gateway: str, token: str, listens: Sequence[Listen]) -> Link:
    from cairn._tunnel import ADDRESS, Tunnel

    return await Link.open(ADDRESS, token, listens=listens, transport=Tunnel(gateway, token))


def _good(one: asyncio.Future[Link]) -> bool:
    return one.done() and not one.cancelled() and one.exception() is None


def _told(errors: Sequence[BaseException | None], gateway: str) -> BaseException:
    """One error of all: what is not of the kind that is tried again is told as it is. Where it is the gateway
    that says where the bus is, and it is not there, the first says all."""
    for error in errors:
        if error is not None and not isinstance(error, _TROUBLES):
            return error
    words = [str(error) or type(error).__name__ for error in errors]
    if gateway and gateway in words[0]:
        words = words[:1]
    return Trouble("; through the gateway: ".join(words), fatal=True)


async def _end(tries: Sequence[asyncio.Future[Link]]) -> None:
    """Of those that lost nothing stays open."""
    for one in tries:
        one.cancel()
    for found in await asyncio.gather(*tries, return_exceptions=True):
        if isinstance(found, Link):
            await found.close()

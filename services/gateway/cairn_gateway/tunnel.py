"""The way to the bus for who reaches only this door: bytes there and back, none of them read.

The bus itself lets in or refuses who talks through it, and decides what they may: by the token that they show
to it, as everywhere else. So a revoked token's connection ends here, too, when the bus ends it.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from urllib.parse import urlsplit

from cairn_common.auth import Principal, Role, access, admit
from cairn_common.errors import PermissionDenied, Reason, Unavailable
from cairn_common.tls import of_url

ACCESS = access(Role.MEMBER, run_token=True)
"""Whom the bus may let in; of which team it decides itself, subject by subject."""

_DIAL_SECONDS = 5.0
_PORT = 4222
_CHUNK = 64 * 1024
# The bus's first word is one line; with many servers it may be long.
_MOST_FIRST_BYTES = 64 * 1024
# What is true of the bus as this process reaches it, and of nobody's use on the other side.
_OURS = ("tls_required", "tls_available", "tls_verify", "connect_urls", "ws_connect_urls", "client_ip")


def check_may(principal: Principal) -> None:
    """Holds that the token is one that the bus may let in. Raises PermissionDenied."""
    admit(principal, ACCESS)
    if principal.is_service:
        raise PermissionDenied("a service reaches the bus by its own key", reason=Reason.SCOPE_TOO_LOW)


class Tunnel:
    """Connections to the bus at `url`, each for one client."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def talk(self, said: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        """What the bus answers to what is `said`, until either side ends. Raises Unavailable."""
        async with _dialled(self._url) as (first, reader, writer):
            yield first
            up = asyncio.create_task(_pass_on(said, writer))
            try:
                while data := await reader.read(_CHUNK):
                    yield data
            except OSError:
                return  # the bus has gone; the client finds another way, or comes again
            finally:
                up.cancel()
                with suppress(asyncio.CancelledError, OSError):
                    await up


async def _pass_on(said: AsyncGenerator[bytes, None], writer: asyncio.StreamWriter) -> None:
    async with aclosing(said):
        async for data in said:
            writer.write(data)
            # Who sends faster than the bus takes waits, and is not asked for more.
            await writer.drain()
    writer.close()


@asynccontextmanager
async def _dialled(
    url: str,
) -> AsyncIterator[tuple[bytes, asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to the bus, and its first word as it is for the client: TLS ends here."""
    plain, context = of_url(url)
    parts = urlsplit(plain if "://" in plain else f"nats://{plain}")
    writer: asyncio.StreamWriter | None = None
    try:
        try:
            async with asyncio.timeout(_DIAL_SECONDS):
                reader, writer = await asyncio.open_connection(
                    parts.hostname, parts.port or _PORT, limit=_MOST_FIRST_BYTES
                )
                word, _, told = (await reader.readuntil(b"\r\n")).partition(b" ")
                info = json.loads(told)
                if info.get("tls_required"):
                    trusted = context or ssl.create_default_context()
                    await writer.start_tls(trusted, server_hostname=parts.hostname)
                elif parts.scheme == "tls":
                    raise OSError("the bus does not speak TLS, but its address is tls://")
        except (OSError, EOFError, ValueError, TimeoutError, asyncio.LimitOverrunError) as error:
            raise Unavailable("the bus does not answer; try again", reason=Reason.BUS_UNAVAILABLE) from error
        kept = {name: value for name, value in info.items() if name not in _OURS}
        yield word + b" " + json.dumps(kept).encode() + b"\r\n", reader, writer
    finally:
        if writer is not None:
            writer.close()

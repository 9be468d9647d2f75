"""Bodies as they travel: packed by gzip or Zstandard in both directions, also by deflate on the way in."""

from __future__ import annotations

import sys
import zlib
from typing import Protocol

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette_compress import CompressMiddleware, remove_compress_type

from cairn_common.errors import InvalidArgument, Reason
from cairn_gateway.http import tags
from cairn_gateway.problems import HttpError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

SMALLEST = 1024
"""Bytes of an answer from which on it is packed."""
# Of memory that a packed body can ask for before it holds anything: 8 MiB.
_LARGEST_WINDOW_LOG = 23


class _Unpacker(Protocol):
    """What zlib and Zstandard have in common."""

    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int) -> bytes: ...


async def read_body(request: Request, *, most: int) -> bytes:
    """The body, unpacked. A packed one takes no more memory than a plain one: it is refused at the first byte
    over `most`, however little was sent for it.

    Raises HttpError (413, 415), or InvalidArgument for what is not packed as it says.
    """
    unpacker = _unpacker(request.headers.get("content-encoding", "identity").strip().lower())
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and int(declared) > most:
        raise too_large(most)
    sent, text = 0, bytearray()
    async for chunk in request.stream():
        sent += len(chunk)
        text += _unpacked(unpacker, chunk, most=most + 1 - len(text)) if unpacker and chunk else chunk
        if max(sent, len(text)) > most:
            raise too_large(most)
    if unpacker and sent and not unpacker.eof:
        raise _not_packed()
    return bytes(text)


def too_large(most: int) -> HttpError:
    """A body over the limit."""
    return HttpError(413, "BODY_TOO_LARGE", f"the body is larger than {most // 1024:,} KiB")


def _unpacker(coding: str) -> _Unpacker | None:
    if coding == "identity":
        return None
    if coding in ("gzip", "deflate"):
        return zlib.decompressobj(wbits=31 if coding == "gzip" else 15)
    if coding == "zstd":
        return zstd.ZstdDecompressor(
            options={zstd.DecompressionParameter.window_log_max: _LARGEST_WINDOW_LOG}
        )
    raise HttpError(
        415,
        "MEDIA_TYPE_REFUSED",
        f"content-encoding {coding[:40]!r} is not known here; send gzip, deflate, zstd, or the body as it is",
        headers={"Accept-Encoding": "gzip, deflate, zstd"},
    )


def _unpacked(unpacker: _Unpacker, chunk: bytes, *, most: int) -> bytes:
    if unpacker.eof:
        raise _not_packed()
    try:
        found = unpacker.decompress(chunk, most)
    except (zlib.error, zstd.ZstdError):
        raise _not_packed() from None
    if unpacker.unused_data:
        raise _not_packed()
    return found


def _not_packed() -> InvalidArgument:
    return InvalidArgument("the body is not what its content-encoding says", reason=Reason.REQUEST_MALFORMED)


class Packing:
    """An ASGI application around one whose answers are packed as the client can read them."""

    def __init__(self, app: ASGIApp) -> None:
        # Events are small and go out at once: packing each for each listener costs more than it saves.
        remove_compress_type("text/event-stream")
        self.app = CompressMiddleware(app, minimum_size=SMALLEST, brotli=False, gzip_level=5, zstd_level=3)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                coding = headers.get("content-encoding")
                if coding and "etag" in headers:
                    # Other bytes are another representation.
                    headers["etag"] = tags.packed(headers["etag"], coding)
            await send(message)

        await self.app(scope, receive, sending)

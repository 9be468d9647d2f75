"""Bytes between a client and the store: cut into parts, named by their contents, and put together again.

Whoever sends or fetches here speaks to the gateway alone; between it and the store the bytes take the
same way as those of every other client, by signed URLs.
"""

from __future__ import annotations

import asyncio
import hashlib
from base64 import b64encode
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

import httpx
from google.protobuf.message import Message

from cairn.tracker.v1 import artifact_pb2, tracker_pb2
from cairn_common.errors import Reason, Unavailable
from cairn_gateway.mlflow.errors import invalid

Answer = TypeVar("Answer", bound=Message)
PART_BYTES: Final = 16 * 1024 * 1024
LARGEST_FILE: Final = 20 * 1024**3
# Each upload holds one part in memory.
_UPLOADS_AT_ONCE: Final = 8
_DOWNLOADS_AT_ONCE: Final = 64
_SECONDS: Final = httpx.Timeout(60.0, connect=5.0)
_URLS_AT_ONCE: Final = 100
_CHUNK: Final = 256 * 1024


class Calls(Protocol):
    """Who asks, and calls the services."""

    @property
    def parent(self) -> str: ...

    async def call(self, rpc: str, message: Message, kind: type[Answer]) -> Answer: ...


@dataclass(frozen=True, slots=True)
class Sent:
    """A file whose bytes are in the store."""

    size: int
    digest: str
    parts: Sequence[artifact_pb2.ArtifactPart]


class Transfer:
    """The gateway's way to the store."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http
        self._uploads = asyncio.Semaphore(_UPLOADS_AT_ONCE)

    async def send(self, asked: Calls, stream: AsyncIterator[bytes]) -> Sent:
        """Takes a request's body in. Raises MlflowError for too much of it, Unavailable while the store is
        away."""
        async with self._uploads:
            whole, parts, size = hashlib.sha256(), [], 0
            async for part in _parts(stream):
                size += len(part)
                if size > LARGEST_FILE:
                    raise invalid(f"a file has at most {LARGEST_FILE // 2**30} GiB")
                await asyncio.to_thread(whole.update, part)
                parts.append(await self._send_part(asked, part))
            return Sent(size, whole.hexdigest(), parts)

    async def fetch(self, asked: Calls, parts: Sequence[artifact_pb2.ArtifactPart]) -> AsyncIterator[bytes]:
        """The bytes of a file. Raises Unavailable before the first of them, or breaks off."""
        for start in range(0, len(parts), _URLS_AT_ONCE):
            some = parts[start : start + _URLS_AT_ONCE]
            request = tracker_pb2.CreateDownloadsRequest(
                parent=asked.parent, digests=list(dict.fromkeys(part.digest for part in some))
            )
            made = await asked.call(
                "ArtifactService/CreateDownloads", request, tracker_pb2.CreateDownloadsResponse
            )
            urls = {item.digest: item.url for item in made.downloads}
            for part in some:
                async for chunk in self._fetch_part(urls[part.digest]):
                    yield chunk

    async def _send_part(self, asked: Calls, part: bytes) -> artifact_pb2.ArtifactPart:
        digest = await asyncio.to_thread(lambda: hashlib.sha256(part).hexdigest())
        made = artifact_pb2.ArtifactPart(digest=digest, size=len(part))
        request = tracker_pb2.CreateUploadsRequest(parent=asked.parent, parts=[made])
        needed = await asked.call("ArtifactService/CreateUploads", request, tracker_pb2.CreateUploadsResponse)
        for upload in needed.uploads:
            try:
                answer = await self._http.put(upload.url, content=part, headers=_signed(upload))
                answer.raise_for_status()
            except httpx.HTTPError as error:
                raise _away(error) from error
        return made

    async def _fetch_part(self, url: str) -> AsyncIterator[bytes]:
        try:
            async with self._http.stream("GET", url) as answer:
                answer.raise_for_status()
                async for chunk in answer.aiter_raw(_CHUNK):
                    yield chunk
        except httpx.HTTPError as error:
            raise _away(error) from error


@asynccontextmanager
async def connect() -> AsyncIterator[Transfer]:
    """The way to the store, for the block. Nothing is dialled before the first byte."""
    limits = httpx.Limits(max_connections=_DOWNLOADS_AT_ONCE, max_keepalive_connections=16)
    # Only to addresses that the tracker signed, whatever the environment says of proxies.
    async with httpx.AsyncClient(timeout=_SECONDS, limits=limits, trust_env=False) as http:
        yield Transfer(http)


def _signed(upload: tracker_pb2.CreateUploadsResponse.Upload) -> dict[str, str]:
    """The headers, beside the host, that the signature of the URL is over."""
    checked = "x-amz-checksum-sha256" in upload.url
    return {"x-amz-checksum-sha256": b64encode(bytes.fromhex(upload.digest)).decode()} if checked else {}


async def _parts(stream: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    held = bytearray()
    async for chunk in stream:
        held += chunk
        while len(held) >= PART_BYTES:
            yield bytes(held[:PART_BYTES])
            del held[:PART_BYTES]
    if held:
        yield bytes(held)


def _away(error: httpx.HTTPError) -> Unavailable:
    return Unavailable(
        "the object store does not answer", reason=Reason.STORE_UNAVAILABLE, cause=type(error).__name__
    )

"""MediaService."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, Final

from google.protobuf.message import Message
from grpc import aio

from cairn.tracker.v1 import media_pb2, media_pb2_grpc
from cairn_common.auth import Access, Role, access
from cairn_common.clock import Clock
from cairn_common.db import Database
from cairn_common.errors import InvalidArgument, NotFound, Reason
from cairn_common.paging import Position, decode_token, encode_token, page_size
from cairn_common.rpc import caller
from cairn_tracker import wire, wire_media
from cairn_tracker.api.names import run_of, unknown_run
from cairn_tracker.artifacts import URL_SECONDS, Artifacts
from cairn_tracker.batch import LAST_STEP, RunKey, is_key
from cairn_tracker.media import Item
from cairn_tracker.store import media as store
from cairn_tracker.store import runs

NAME: Final = "cairn.tracker.v1.MediaService"
ACCESS: Mapping[str, Access] = {
    f"/{NAME}/ListMedia": access(Role.VIEWER, run_token=True),
    f"/{NAME}/GetMedia": access(Role.VIEWER, run_token=True),
}
# A larger one goes straight from the store to whoever wants it.
_MOST_INSIDE: Final = 2 * 2**20
# Under the 4 MB of a message, with room for the last of a page.
_PAGE_BYTES: Final = 2_500_000

Context = aio.ServicerContext[Any, Any]


class MediaApi(media_pb2_grpc.MediaServiceServicer):
    """Histograms, tables and images that runs logged."""

    def __init__(self, *, db: Database, artifacts: Artifacts, clock: Clock) -> None:
        self._db = db
        self._artifacts = artifacts
        self._clock = clock

    async def ListMedia(
        self, request: media_pb2.ListMediaRequest, context: Context
    ) -> media_pb2.ListMediaResponse:
        """What a run logged, by key and step; or of each key the last."""
        key = await self._run(request.parent)
        if request.key:
            _check_key(request.key)
        if request.start_step < 0 or request.end_step < 0:
            raise InvalidArgument("start_step and end_step must not be negative", field="start_step")
        only = request.latest_only
        scope = f"media/{key.team}/{key.uid}/{request.key}/{request.start_step}/{request.end_step}/{only}"
        token = request.page_token
        after = decode_token(token, scope=scope, read=_place) if token else ("", -1)
        size = page_size(request.page_size)
        wanted = store.Wanted(
            run=key, key=request.key, first=request.start_step, end=request.end_step or LAST_STEP + 1,
            after=after,
        )  # fmt: skip
        found = await (store.latest if only else store.listed)(self._db, wanted, limit=size + 1)
        page = [wire_media.media(item) for item in found[:size]]
        page = page[: _fitting(page)]
        response = media_pb2.ListMediaResponse(media=page)
        if page and len(page) < len(found):
            last = page[-1]
            response.next_page_token = encode_token({"key": last.key, "step": last.step}, scope=scope)
        return response

    async def GetMedia(self, request: media_pb2.GetMediaRequest, context: Context) -> media_pb2.MediaContent:
        """One item with its bytes, or with where they are."""
        key = await self._run(request.parent)
        item = await self._item(key, request)
        if item.data:
            return media_pb2.MediaContent(item=wire_media.item(item))
        made = media_pb2.MediaContent(item=wire_media.item(item))
        if item.size <= _MOST_INSIDE:
            made.item.data = await self._artifacts.read(key.team, item.digest)
        else:
            expires = self._clock.now() + timedelta(seconds=URL_SECONDS)
            made.url = (await self._artifacts.downloads(key.team, [item.digest]))[item.digest][0]
            made.expire_time.CopyFrom(wire.stamp(expires))  # type: ignore[arg-type]
        return made

    async def _run(self, name: str) -> RunKey:
        key = run_of(caller(), name, Role.VIEWER)
        if await runs.line_count(self._db, key.team, key.uid) is None:
            raise unknown_run(key)
        return key

    async def _item(self, key: RunKey, request: media_pb2.GetMediaRequest) -> Item:
        _check_key(request.key)
        wanted = store.Wanted(run=key, key=request.key, first=request.step, end=request.step + 1)
        found = await store.listed(self._db, wanted, limit=1) if 0 <= request.step <= LAST_STEP else []
        items: Sequence[Item] = found[0].media.items if found else ()
        if not 0 <= request.index < len(items):
            raise NotFound(
                f"run {key.uid} has no {request.key!r} at step {request.step}, item {request.index}",
                reason=Reason.MEDIA_NOT_FOUND,
            )
        return items[request.index]


def _check_key(key: str) -> None:
    if not is_key(key):
        raise InvalidArgument(
            f"key: {key[:40]!r} is no key of 1 to 250 bytes", field="key", reason=Reason.FIELD_INVALID
        )


def _place(position: Position) -> tuple[str, int]:
    step = position["step"]
    if not isinstance(step, int):
        raise ValueError("a step is a number")
    return str(position["key"]), step


def _fitting(page: Sequence[Message]) -> int:
    """How many of these fit into one answer; at least one."""
    room = _PAGE_BYTES
    for place, one in enumerate(page):
        room -= one.ByteSize()
        if room < 0:
            return max(place, 1)
    return len(page)

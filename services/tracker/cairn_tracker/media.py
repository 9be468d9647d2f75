"""Histograms, tables and images, as events tell of them. Pure."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, NamedTuple

from cairn.job.v1 import events_pb2
from cairn_tracker.batch import LAST_STEP, LAST_TIME, Event, RunKey, is_key
from cairn_tracker.changes import clean

MOST_ITEMS: Final = 64
LARGEST: Final = 16 * 2**20
#: Bytes that an event may carry itself.
SMALL: Final = 8 * 1024
_LONGEST_CAPTION: Final = 1_000
_LARGEST_NUMBER: Final = 2**31 - 1
_DIGEST = re.compile(r"[0-9a-f]{64}")
_JSON = frozenset({"application/json"})
_TYPES: Mapping[int, frozenset[str]] = {
    events_pb2.MediaItem.KIND_HISTOGRAM: _JSON,
    events_pb2.MediaItem.KIND_TABLE: _JSON,
    # Nothing that a browser could take for a program: no SVG.
    events_pb2.MediaItem.KIND_IMAGE: frozenset({"image/png", "image/jpeg", "image/gif", "image/webp"}),
}


class MediaKey(NamedTuple):
    """Where media are: one key and step of a run."""

    team: str
    run: str
    key: str
    step: int


@dataclass(frozen=True, slots=True)
class Item:
    """One histogram, table or image; `data` is empty where a blob has its bytes."""

    kind: int
    media_type: str
    size: int
    digest: str
    data: bytes = b""
    caption: str = ""
    width: int = 0
    height: int = 0
    rows: int = 0


@dataclass(frozen=True, slots=True)
class Media:
    """What a run logged under a key at a step."""

    place: MediaKey
    attempt: int
    time: datetime
    items: Sequence[Item]


def read(events: Iterable[Event]) -> tuple[dict[MediaKey, Media], dict[RunKey, int]]:
    """Of each place what counts, and how many of each run's cannot be kept.

    Of several for one place that of the highest attempt counts, and there the latest.
    """
    kept: dict[MediaKey, Media] = {}
    rejected: dict[RunKey, int] = {}
    for event in events:
        if event.arm != "media_logged" or isinstance(event.message, events_pb2.PointsEvent):
            continue
        found = _media(event, event.message.media_logged)
        if found is None:
            rejected[event.run] = rejected.get(event.run, 0) + 1
            continue
        before = kept.get(found.place)
        if before is None or (before.attempt, before.time) <= (found.attempt, found.time):
            kept[found.place] = found
    return kept, rejected


def _media(event: Event, told: events_pb2.MediaLogged) -> Media | None:
    if not is_key(told.key) or not 0 <= told.step <= LAST_STEP or not 1 <= len(told.items) <= MOST_ITEMS:
        return None
    items = [_item(item) for item in told.items]
    usable = [item for item in items if item is not None]
    if len(usable) < len(items):
        return None
    return Media(
        place=MediaKey(event.run.team, event.run.uid, told.key, told.step),
        attempt=event.message.attempt,
        time=datetime.fromtimestamp(told.time if 0 <= told.time < LAST_TIME else event.stored, UTC),
        items=usable,
    )


def _item(told: events_pb2.MediaItem) -> Item | None:
    if told.media_type not in _TYPES.get(told.kind, ()) or not 0 < told.size <= LARGEST:
        return None
    if not _DIGEST.fullmatch(told.digest):
        return None
    if told.data:
        whole = len(told.data) == told.size <= SMALL
        if not whole or hashlib.sha256(told.data).hexdigest() != told.digest:
            return None
    return Item(
        kind=told.kind,
        media_type=told.media_type,
        size=told.size,
        digest=told.digest,
        data=told.data,
        caption=clean(told.caption)[:_LONGEST_CAPTION],
        width=min(max(told.width, 0), _LARGEST_NUMBER),
        height=min(max(told.height, 0), _LARGEST_NUMBER),
        rows=min(max(told.rows, 0), _LARGEST_NUMBER),
    )

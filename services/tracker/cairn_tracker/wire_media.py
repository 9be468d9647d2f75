"""Media as the protos have them."""

from __future__ import annotations

from cairn.job.v1 import events_pb2
from cairn.tracker.v1 import media_pb2
from cairn_tracker import wire
from cairn_tracker.media import Item
from cairn_tracker.store.media import Stored


def media(value: Stored) -> media_pb2.Media:
    """What a run logged under a key at a step, as the API has it."""
    place = value.media.place
    return media_pb2.Media(
        run=wire.run_name(place.team, place.run),
        key=place.key,
        step=place.step,
        time=wire.stamp(value.media.time),
        attempt=value.media.attempt,
        items=[item(one) for one in value.media.items],
        count=value.count,
    )


def item(value: Item) -> events_pb2.MediaItem:
    """A histogram, table or image as the API has it."""
    return events_pb2.MediaItem(
        kind=events_pb2.MediaItem.Kind.ValueType(value.kind),
        media_type=value.media_type,
        size=value.size,
        digest=value.digest,
        data=value.data,
        caption=value.caption,
        width=value.width,
        height=value.height,
        rows=value.rows,
    )

"""Facts about what people change of which nobody needs more than who did it: they are for the audit."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from cairn.tracker.v1 import events_pb2
from cairn_common.rpc import caller
from cairn_tracker import wire
from cairn_tracker.batch import RunKey


async def note(conn: Any, arm: str, key: RunKey, name: str, *, now: datetime, what: str = "") -> None:
    """Tells, in the transaction that makes it true, that whoever calls has changed something.

    `arm`: of the event, such as `model_updated`; `key`: the team, and an id of the resource; `name`: its
    name. Nothing is told of what the tracker does by itself.
    """
    try:
        actor = caller().subject
    except LookupError:
        return
    fact = events_pb2.TrackerEvent()
    getattr(fact, arm).CopyFrom(events_pb2.Changed(name=name, what=what))
    await wire.tell(conn, fact, key, arm.partition("_")[0], now, actor=actor)

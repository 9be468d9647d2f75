"""What people did at the neighbours, heard as facts and written to the audit: a durable consumer for each."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cairn.scheduler.v1 import events_pb2 as scheduler_events
from cairn.tracker.v1 import events_pb2 as tracker_events
from cairn_common import subjects
from cairn_common.bus import Message
from cairn_common.db import Database
from cairn_quota import audit, wire

# Stream to the facts that a person can cause, and the message that they are.
HEARD = {
    "SCHEDULER": [
        f"cairn.v1.scheduler.{each}.>"
        for each in ("job.submitted", "job.held", "job.requeued", "job.preempting", "job.stopping")
    ],
    "TRACKER": [
        f"cairn.v1.tracker.{each}.>"
        for each in (
            *("run.created", "run.updated", "artifact", "promotion", "share"),
            *("pin", "keeping", "rules", "garbage", "model", "experiment"),
            *("loggedmodel", "trace", "file", "version"),
        )
    ],
}
_KINDS: dict[str, Any] = {
    "scheduler": scheduler_events.SchedulerEvent,
    "tracker": tracker_events.TrackerEvent,
}


@dataclass(frozen=True, slots=True)
class Noting:
    """Hears a neighbour's facts; any number of times, one entry each."""

    db: Database

    async def __call__(self, messages: Sequence[Message]) -> None:
        """One transaction for the batch. Raises DecodeError or ValueError for what is no event."""
        noted = [fact for message in messages if (fact := read(message)) is not None]
        if noted:
            await audit.note(self.db, noted)


def read(message: Message) -> audit.Fact | None:
    """What somebody did; None for what a service or a run did by itself."""
    about = subjects.parse(message.subject)
    event = _KINDS[about.publisher].FromString(message.data)
    if not event.actor.startswith("users/"):
        return None
    arm = event.WhichOneof("event")
    return audit.Fact(
        id=event.id,
        time=wire.moment(event.time),
        actor=event.actor,
        address=message.address,
        action=f"{about.resource}.{about.event}",
        team="" if about.team == "-" else about.team,
        detail=json.dumps(_what(getattr(event, arm)) if arm else {}),
        resource=(arm and _name(getattr(event, arm))) or f"teams/{about.team}/{about.resource}s/{about.uid}",
    )


def _what(told: Any) -> dict[str, str]:
    """What else is worth knowing."""
    if isinstance(told, tracker_events.Changed):
        return {"what": told.what} if told.what else {}
    if isinstance(told, tracker_events.ArtifactAliased):
        return {"alias": told.alias, "moved": "removed" if told.removed else "set"}
    return {}


def _name(told: Any) -> str:
    """The name of the resource that a fact tells of, where it has one whole."""
    if isinstance(told, tracker_events.Changed):
        return told.name
    for field in told.DESCRIPTOR.fields:
        kind = field.message_type
        if kind is not None and "name" in kind.fields_by_name and not field.is_repeated:
            return str(getattr(told, field.name).name)
    return ""

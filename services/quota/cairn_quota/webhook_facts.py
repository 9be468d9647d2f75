"""Facts that webhooks are told: of the scheduler, the tracker and quota, by a durable consumer each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from cairn.quota.v1 import events_pb2 as quota_events
from cairn.scheduler.v1 import events_pb2 as scheduler_events
from cairn.tracker.v1 import events_pb2 as tracker_events
from cairn_common import subjects
from cairn_common.bus import Message
from cairn_common.clock import Clock
from cairn_quota import wire
from cairn_quota.webhook import Told
from cairn_quota.webhook_store import WebhookStore

_JOBS = ("submitted", "running", "held", "preempted", "recovering", "finished")
# Stream to the facts in it that can be told.
TELLABLE = {
    "SCHEDULER": [f"cairn.v1.scheduler.job.{event}.>" for event in _JOBS],
    "TRACKER": [f"cairn.v1.tracker.{each}.>" for each in ("artifact", "promotion", "share")],
    "QUOTA": [f"cairn.v1.quota.{each}.>" for each in ("member", "budget")],
}
NAMES = frozenset(
    {f"job.{event}" for event in _JOBS}
    | {f"artifact.{event}" for event in ("committed", "aliased", "deleted")}
    | {f"promotion.{event}" for event in ("requested", "approved", "rejected")}
    | {f"share.{event}" for event in ("created", "revoked")}
    | {f"member.{event}" for event in ("added", "updated", "removed")}
    | {f"budget.{event}" for event in ("warned", "exhausted")}
)
_KINDS: dict[str, Any] = {
    "scheduler": scheduler_events.SchedulerEvent,
    "tracker": tracker_events.TrackerEvent,
    "quota": quota_events.QuotaEvent,
}
# Of what a fact tells of, no more than this leaves the platform.
_SHOWN = ("uid", "display_name", "state", "experiment", "cause", "kind", "alias", "role", "user")


@dataclass(frozen=True, slots=True)
class Telling:
    """Hears facts; any number of times, one delivery each."""

    store: WebhookStore
    clock: Clock
    # Called when there is something to send.
    wake: Callable[[], None]

    async def __call__(self, messages: Sequence[Message]) -> None:
        """Raises DecodeError or ValueError for what is no event."""
        teams = await self.store.teams()
        # Most teams have none: what they are told is not even read.
        heeded = [message for message in messages if subjects.parse(message.subject).team in teams]
        told = [one for message in heeded if (one := read(message)) is not None]
        if told and await self.store.enqueue(told, now=self.clock.now()):
            self.wake()


def read(message: Message) -> Told | None:
    """The fact, where it can be told."""
    about = subjects.parse(message.subject)
    event = _KINDS[about.publisher].FromString(message.data)
    arm, name = event.WhichOneof("event"), f"{about.resource}.{about.event}"
    if arm is None or about.team == "-" or name not in NAMES:
        return None
    told = getattr(event, arm)
    resource = _resource(told)
    return Told(
        id=event.id,
        time=wire.moment(event.time),
        team=about.team,
        event=name,
        resource=str(getattr(resource, "name", "")) or f"teams/{about.team}/{about.resource}s/{about.uid}",
        actor=event.actor,
        about=_shown(told) | _shown(resource),
    )


def _resource(told: Any) -> Any:
    whole = [field for field in told.DESCRIPTOR.fields if field.message_type is not None]
    return getattr(told, whole[0].name) if whole else told


def _shown(message: Any) -> dict[str, str]:
    found = {}
    for field in message.DESCRIPTOR.fields:
        if field.name not in _SHOWN or field.message_type is not None or field.is_repeated:
            continue
        value = getattr(message, field.name)
        if not value:
            continue
        known = field.enum_type.values_by_number if field.enum_type is not None else {}
        found[field.name] = known[value].name if value in known else str(value)[:200]
    return found

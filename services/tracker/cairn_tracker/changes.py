"""What a batch of events changes about runs, beside their points and lines. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from google.protobuf import struct_pb2, timestamp_pb2

from cairn.job.v1 import events_pb2
from cairn_tracker.batch import Event, RunKey
from cairn_tracker.model import DEFAULT_EXPERIMENT, Json

LONGEST_TEXT = 500
LONGEST_NOTES = 16_000
MOST_AXES = 100
# In one event: a sum of them fits into what counts them.
MOST_DROPPED = 10**12

_BESIDE = frozenset({"points_logged", "lines_logged", "media_logged"})
_EXPERIMENT = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class Resumed:
    """An attempt went on from a checkpoint."""

    attempt: int
    attempt_uid: str
    step: int


@dataclass(frozen=True, slots=True)
class Finished:
    """How a run without a job ended."""

    time: datetime
    succeeded: bool
    message: str


@dataclass(frozen=True, slots=True)
class Drained:
    """One of an attempt's `runners`, that of this rank, has nothing more to say."""

    attempt: int
    rank: int
    runners: int


@dataclass(slots=True)
class RunChange:
    """What one run's events of a batch say of it, later ones over earlier ones."""

    # An event came from inside an attempt: a job stands behind the run.
    has_job: bool = False
    # When the first of these events was stored.
    seen: datetime | None = None
    # When the last of them was.
    last_seen: datetime | None = None
    started: datetime | None = None
    params: dict[str, Json] = field(default_factory=dict)
    tags: list[str] = field(default_factory=list)
    command: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    experiment: str = ""
    display_name: str = ""
    # None: nothing was said.
    group: str | None = None
    notes: str | None = None
    axes: dict[str, str] = field(default_factory=dict)
    resumed: list[Resumed] = field(default_factory=list)
    finished: Finished | None = None
    # Last words of runners.
    drained: list[Drained] = field(default_factory=list)
    # Points that were lost where they were logged.
    dropped: int = 0

    @property
    def told(self) -> bool:
        """Whether anything was said of the run itself."""
        described = self.params or self.tags or self.axes or self.group is not None or self.notes is not None
        ended = self.finished or self.drained
        return bool(self.started or described or self.resumed or ended or self.dropped)


def changes(events: Iterable[Event]) -> dict[RunKey, RunChange]:
    """The changes by run. Every run with an event has one, also where it says nothing of the run itself."""
    found: dict[RunKey, RunChange] = {}
    last: dict[RunKey, float] = {}
    for event in events:
        run = event.run
        change = found.get(run)
        if change is None:
            change = found[run] = RunChange(seen=datetime.fromtimestamp(event.stored, UTC))
            last[run] = event.stored
        elif event.stored > last[run]:
            last[run] = event.stored
        if not change.has_job and event.message.attempt_uid:
            change.has_job = True
        # Most say nothing of the run itself, and there may be thousands.
        if event.arm not in _BESIDE and isinstance(event.message, events_pb2.JobEvent):
            _apply(change, event, event.message)
    for run, stored in last.items():
        found[run].last_seen = datetime.fromtimestamp(stored, UTC)
    return found


def experiment_id(text: str) -> str:
    """The id for an experiment as somebody wrote it: `My digits` becomes `my-digits`."""
    if _EXPERIMENT.fullmatch(text):
        return text
    words = re.sub(r"[^a-z0-9]+", "-", text.lower()).lstrip("-0123456789")[:63].rstrip("-")
    return words or DEFAULT_EXPERIMENT


def clean(text: str) -> str:
    """The text as PostgreSQL can keep it: it has no NUL."""
    return text.replace("\x00", "\N{REPLACEMENT CHARACTER}")


def plain(value: struct_pb2.Struct) -> dict[str, Json]:
    """A Struct as JSON; NaN and infinities, which JSON cannot write, as the API's texts for them."""
    return {clean(key): _plain(item) for key, item in value.fields.items()}


def _apply(change: RunChange, event: Event, message: events_pb2.JobEvent) -> None:
    match event.arm:
        case "run_started":
            told = message.run_started
            change.started = _time(told.time) or change.seen
            # Started again: an end before this is not the end. Several processes may be in a run, so what
            # comes later need not be later.
            if change.finished and (change.started is None or change.started >= change.finished.time):
                change.finished = None
            change.params |= plain(told.params)
            change.tags += [clean(tag) for tag in told.tags]
            change.command = clean(told.command)
            change.environment |= clean_texts(told.environment)
            change.experiment = told.experiment
            change.display_name = clean(told.display_name)
            _describe(change, told.group or None, told.notes or None)
        case "run_updated":
            change.params |= plain(message.run_updated.params)
            change.tags += [clean(tag) for tag in message.run_updated.tags]
            change.environment |= clean_texts(message.run_updated.environment)
            more = message.run_updated
            _describe(
                change,
                more.group if more.HasField("group") else None,
                more.notes if more.HasField("notes") else None,
            )
            change.axes |= dict(sorted(clean_texts(more.axes).items())[:MOST_AXES])
        case "run_resumed":
            change.resumed.append(Resumed(message.attempt, message.attempt_uid, message.run_resumed.step))
        case "run_finished":
            end = message.run_finished
            stored = datetime.fromtimestamp(event.stored, UTC)
            finished = Finished(_time(end.time) or stored, end.succeeded, clean(end.message))
            change.finished = _last_end(change.finished, finished)
        case "attempt_drained":
            word = message.attempt_drained
            change.drained.append(Drained(message.attempt, word.rank, max(word.runners, 1)))
        case "points_dropped":
            change.dropped += min(max(message.points_dropped.points, 0), MOST_DROPPED)


def _describe(change: RunChange, group: str | None, notes: str | None) -> None:
    """Texts that are too long are cut: whoever sent them does not wait for an answer."""
    if group is not None:
        change.group = clean(group)[:LONGEST_TEXT]
    if notes is not None:
        change.notes = clean(notes)[:LONGEST_NOTES]


def _last_end(before: Finished | None, now: Finished) -> Finished:
    """The end of a run of which several processes end: if one of them failed, it has."""
    if before is None:
        return now
    told = before if now.succeeded and not before.succeeded else now
    return replace(told, time=max(before.time, now.time))


def clean_texts(texts: Mapping[str, str]) -> dict[str, str]:
    """A map of texts as PostgreSQL can keep it."""
    return {clean(key): clean(text) for key, text in texts.items()}


def _time(stamp: timestamp_pb2.Timestamp) -> datetime | None:
    """None for a time that was not given, or that no calendar has."""
    if not stamp.seconds and not stamp.nanos:
        return None
    try:
        return stamp.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None


def _plain(value: struct_pb2.Value) -> Json:
    match value.WhichOneof("kind"):
        case "number_value":
            return _number(value.number_value)
        case "string_value":
            return clean(value.string_value)
        case "bool_value":
            return value.bool_value
        case "struct_value":
            return plain(value.struct_value)
        case "list_value":
            return [_plain(item) for item in value.list_value.values]
    return None


def _number(number: float) -> Json:
    if number != number:
        return "NaN"
    if number in (float("inf"), float("-inf")):
        return "Infinity" if number > 0 else "-Infinity"
    return int(number) if number.is_integer() and abs(number) < 2**53 else number

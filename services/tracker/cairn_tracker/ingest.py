"""Job events into points, lines and runs, each exactly once.

Points and lines go to ClickHouse under keys that a second insert repeats, then everything else commits in
one PostgreSQL transaction together with the marks that say what was applied. A crash between the two costs
an insert, and rows that stand twice, which whoever reads takes for one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import structlog
from google.protobuf.message import DecodeError

from cairn.job.v1 import events_pb2
from cairn_common import subjects
from cairn_common.bus import Message, Unusable
from cairn_common.clock import Clock
from cairn_common.db import Database
from cairn_common.errors import Reason, Unavailable
from cairn_common.ids import is_uid
from cairn_tracker import batch, layout, logs, points, rollups, wire
from cairn_tracker.batch import Event, Line, MetricKey, Points, RunKey
from cairn_tracker.changes import RunChange, changes
from cairn_tracker.clickhouse import ClickHouse
from cairn_tracker.marks import LineKey, Marks, SegmentKey
from cairn_tracker.media import Media, MediaKey
from cairn_tracker.media import read as read_media
from cairn_tracker.model import Summary, is_complete
from cairn_tracker.store import expiry, ingested, keeping, media, runs

log = structlog.get_logger(__name__)

#: Messages of one batch, of which the bus hands over 8 MiB at most. Each batch costs two inserts and a
#: transaction, however many messages of however many runs are in it.
BATCH = 16_384
# The event of a subject on which points come.
_POINTS = "points-logged"
#: A run can have so many metrics: each costs a row here, and a name that every reader gets.
MOST_METRICS = 100_000
#: After a small batch so many times as long as it took is rested: a tracker with little to do is quick to
#: show a line, and one with much spends a tenth of the time on small inserts.
_REST = 9.0
#: Bytes from which on nothing is gained by waiting for more.
_LARGE = 1024 * 1024


@dataclass(slots=True)
class Taken:
    """What one batch adds, worked out and written to ClickHouse, ready to commit."""

    changes: Mapping[RunKey, RunChange]
    marks: Marks[SegmentKey]
    line_marks: Marks[LineKey]
    # Counts of lines as they were, and as they are to be.
    before: Mapping[RunKey, int]
    counts: Mapping[RunKey, int]
    summaries: Mapping[MetricKey, Summary]
    rejected: Mapping[RunKey, int]
    media: Mapping[MediaKey, Media]


class Ingest:
    """The handler of the stream of job events."""

    def __init__(
        self, *, db: Database, store: ClickHouse, clock: Clock, interval: float, writing: asyncio.Lock
    ) -> None:
        """`interval`: seconds to rest at most after a small batch; what comes meanwhile goes together.
        `writing` is held while what metrics come to is worked out: several consumers hand over, and points
        come on another way, too.
        """
        self._db = db
        self._store = store
        self._clock = clock
        self._interval = interval
        self._writing = writing
        # Whose points a try wrote that came no further: the table would keep them twice.
        self._added: list[tuple[SegmentKey, int, int]] = []

    async def __call__(self, messages: Sequence[Message]) -> None:
        """Applies a batch. Raises `Unusable` after the rest of it was applied."""
        begin = time.monotonic()
        events, unusable = _read(messages)
        small = len(messages) < BATCH and sum(len(message.data) for message in messages) < _LARGE
        if events and await self._apply(events) and small:
            await asyncio.sleep(min(self._interval, _REST * (time.monotonic() - begin)))
        if unusable:
            raise Unusable(unusable)

    async def add(self, events: Sequence[Event]) -> None:
        """Applies events that did not come as messages of a job."""
        await self._apply(events)

    async def _apply(self, events: Sequence[Event]) -> bool:
        """Whether anything of it was new."""
        async with self._writing:
            return await self._apply_alone(events)

    async def _apply_alone(self, events: Sequence[Event]) -> bool:
        keys = [SegmentKey.of(event) for event in events]
        marks = await ingested.marks(self._db, set(keys))
        pairs = zip(keys, events, strict=True)
        fresh = [event for key, event in pairs if marks.claim(key, *event.span)]
        if not fresh:
            return False
        taken = await self._take(fresh, marks)
        async with self._db.transaction() as conn:
            await self._commit(conn, taken)
        self._added = []
        return True

    async def _take(self, events: Sequence[Event], marks: Marks[SegmentKey]) -> Taken:
        runs_told = changes(events)
        found = layout.points(events)
        looks = await self._new_media(events, found.rejected)
        line_marks, lines = await self._new_lines(batch.lines(events))
        before = await ingested.line_counts(self._db, runs_told.keys())
        known = await ingested.summaries(self._db, found.metrics)
        found = await self._limited(found, known)
        if not self._added or self._added != marks.fresh():
            await points.add(self._store, found)
            self._added = marks.fresh()
        counts = await logs.add(self._store, lines, before)
        summaries = await rollups.keep(self._store, found, known, thinned=partial(expiry.thinned, self._db))
        for run, number in found.rejected.items():
            log.warning("ingest.points_rejected", team=run.team, run=run.uid, points=number)
        return Taken(
            changes=runs_told,
            marks=marks,
            line_marks=line_marks,
            before=before,
            counts=counts,
            summaries=summaries,
            rejected=found.rejected,
            media=looks,
        )

    async def _new_media(
        self, events: Sequence[Event], rejected: dict[RunKey, int]
    ) -> Mapping[MediaKey, Media]:
        """Those that can be kept; the others are counted in `rejected`."""
        found, refused = read_media(events)
        full = {
            run
            for run, places in (await media.counts(self._db, {RunKey(*key[:2]) for key in found})).items()
            if places >= media.MOST_PLACES
        }
        kept = {key: one for key, one in found.items() if RunKey(*key[:2]) not in full}
        for key in found.keys() - kept.keys():
            refused[RunKey(*key[:2])] = refused.get(RunKey(*key[:2]), 0) + 1
        for run, number in refused.items():
            rejected[run] = rejected.get(run, 0) + number
        return kept

    async def _limited(self, found: Points, known: Collection[MetricKey]) -> Points:
        """Without the metrics that would give a run more than `MOST_METRICS`."""
        new: dict[RunKey, list[MetricKey]] = {}
        for metric in found.metrics:
            if metric not in known:
                new.setdefault(RunKey(metric.team, metric.run), []).append(metric)
        if not new:
            return found
        counts = await ingested.metric_counts(self._db, new)
        left_out = {
            metric
            for run, metrics in new.items()
            for metric in metrics[max(0, MOST_METRICS - counts.get(run, 0)) :]
        }
        return layout.without(found, left_out) if left_out else found

    async def _new_lines(self, lines: Sequence[Line]) -> tuple[Marks[LineKey], list[Line]]:
        marks = await ingested.line_marks(self._db, {LineKey.of(line) for line in lines if line.number > 0})
        fresh = [
            line
            for line in lines
            if line.number <= 0 or marks.claim(LineKey.of(line), line.number, line.number + 1)
        ]
        return marks, fresh

    async def _commit(self, conn: Any, taken: Taken) -> None:
        now = self._clock.now()
        keys = sorted(taken.changes)
        for team in sorted({key[0] for key in taken.media}):
            # What is held for them is not collected in the same moment.
            await keeping.enter(conn, team)
        created = {
            key
            for key in keys
            if key not in taken.before and await runs.ensure_run(conn, key, taken.changes[key], now)
        }
        await self._hold(conn, taken, keys)
        for key in keys:
            if taken.changes[key].told:
                await runs.apply_change(conn, key, taken.changes[key], now)
        await runs.see(conn, {key: taken.changes[key].last_seen for key in keys})
        await ingested.add_marks(conn, taken.marks.fresh())
        await ingested.add_line_marks(conn, taken.line_marks.fresh())
        await ingested.set_summaries(conn, taken.summaries)
        dropped = {key: change.dropped for key, change in taken.changes.items() if change.dropped}
        await ingested.set_counts(conn, taken.counts, taken.rejected, dropped)
        await media.add(conn, taken.media)
        for key in keys:
            if key in created or taken.changes[key].told:
                await announce(conn, key, created=key in created, now=now)
        await wire.tell_progressed(
            conn, _by_run(taken.summaries), lines=taken.counts.keys(), media=taken.media, now=now
        )

    async def _hold(self, conn: Any, taken: Taken, keys: Sequence[RunKey]) -> None:
        """Locks the runs, and makes sure that they are as they were when all this was worked out."""
        lines = await runs.lock_runs(conn, keys)
        marks = await ingested.marks(conn, {key for key, _, _ in taken.marks.fresh()})
        alone = taken.marks.began_as(marks)
        if not alone or any(lines[key] != taken.before.get(key, 0) for key in taken.counts):
            raise Unavailable("another tracker took these events in; looking again", reason=Reason.CONFLICT)


async def announce(conn: Any, key: RunKey, *, created: bool, now: Any) -> None:
    """Completes a run where nothing more can come for it, and tells of it as it is then."""
    run = await runs.get_run(conn, key.team, key.uid, most_metrics=runs.MOST_SUMMARIES_IN_LISTS)
    assert run is not None, "the transaction holds its row"
    if run.has_job and not run.complete and is_complete(run.state, run.attempts, run.end_time, now):
        await runs.complete(conn, key, now)
        run = await runs.get_run(conn, key.team, key.uid, most_metrics=runs.MOST_SUMMARIES_IN_LISTS)
        assert run is not None
    await (wire.tell_created if created else wire.tell_updated)(conn, run, now)


def _read(messages: Sequence[Message]) -> tuple[list[Event], list[tuple[Message, Exception]]]:
    """The events, and the messages that are none, each with why."""
    events: list[Event] = []
    unusable: list[tuple[Message, Exception]] = []
    for message in messages:
        try:
            events.append(_event(message))
        except ValueError as error:
            unusable.append((message, error))
    return events, unusable


def _event(message: Message) -> Event:
    """Raises ValueError for a message that is no event of the run in its subject.

    The bus lets a publisher use only its own subjects; so it is the subject that says whose this is.
    """
    subject = subjects.parse(message.subject)
    told = events_pb2.PointsEvent if subject.event == _POINTS else events_pb2.JobEvent
    try:
        event = told.FromString(message.data)
    except DecodeError as error:
        raise ValueError(f"not a JobEvent: {error}") from None
    writer = event.writer
    if event.run_uid != subject.uid or event.team != subject.team:
        raise ValueError(f"an event of {event.team}/{event.run_uid} came on {message.subject}")
    if not is_uid(subject.uid) or not (is_uid(writer) or not writer):
        raise ValueError("run_uid and writer must be uids")
    if event.attempt < 0 or event.segment < 0 or not 0 <= event.start_offset <= event.end_offset:
        raise ValueError("attempt, segment and offsets must not be negative, nor end before they start")
    found = Event(RunKey(subject.team, subject.uid), message.time.timestamp(), event)
    if found.arm != _arm(subject) or (told is events_pb2.PointsEvent and not event.HasField("points_logged")):
        raise ValueError(f"something else than {_arm(subject)} came on {message.subject}")
    return found


def _arm(subject: subjects.Subject) -> str:
    """What an event on this subject is."""
    event = subject.event.replace("-", "_")
    return event if subject.resource == "run" else f"{subject.resource}_{event}"


def _by_run(summaries: Mapping[MetricKey, Summary]) -> dict[RunKey, dict[str, Summary]]:
    found: dict[RunKey, dict[str, Summary]] = {}
    for metric, value in summaries.items():
        found.setdefault(RunKey(metric.team, metric.run), {})[metric.key] = value
    return found

"""Runs and what belongs to them as the protos have them, and facts about them for the outbox."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Any

from google.protobuf import struct_pb2, timestamp_pb2

from cairn.scheduler.v1 import job_pb2
from cairn.tracker.v1 import events_pb2, metric_pb2, run_pb2
from cairn_common import outbox
from cairn_common.ids import new_uid
from cairn_common.subjects import subject
from cairn_tracker import compare, logs, packed
from cairn_tracker.batch import RunKey
from cairn_tracker.changes import clean, clean_texts
from cairn_tracker.drawing import Series
from cairn_tracker.media import MediaKey
from cairn_tracker.model import (
    DEFAULT_EXPERIMENT,
    Attempt,
    Code,
    JobFact,
    JobState,
    Json,
    Origin,
    OriginKind,
    Run,
    Summary,
)
from cairn_tracker.store.runs import Experiment

ACTOR = "services/tracker"
# Keys in one fact; with longer lists a reader asks for the run.
_MOST_PROGRESS_KEYS = 3_000
_LARGEST_RUN = 700_000


def run_name(team: str, uid: str) -> str:
    """The resource name of a run."""
    return f"teams/{team}/runs/{uid}"


def run(value: Run, *, whole: bool = True) -> run_pb2.Run:
    """A run as the API has it; in lists and facts without its diff and its environment."""
    made = run_pb2.Run(
        name=run_name(value.team, value.uid),
        uid=value.uid,
        display_name=value.display_name,
        create_time=stamp(value.create_time),
        update_time=stamp(value.update_time),
        etag=value.etag,
        state=run_pb2.Run.State.ValueType(value.state),
        revision=value.revision,
        creator=value.creator,
        experiment=f"teams/{value.team}/experiments/{value.experiment}",
        job=f"teams/{value.team}/jobs/{value.uid}" if value.has_job else "",
        sweep=value.sweep,
        params=struct(value.params),
        tags=value.tags,
        summary={key: summary(of) for key, of in value.summary.items()},
        attempts=[_attempt(attempt) for attempt in value.attempts],
        command=value.command,
        environment=value.environment if whole else {},
        start_time=stamp(value.start_time),
        end_time=stamp(value.end_time),
        cause=value.cause,
        message=value.message,
        complete=value.complete,
        last_seen_time=stamp(value.last_seen),
        group=value.group,
        notes=value.notes,
        axes=value.axes,
        labels=value.labels,
        rejected_points=value.rejected_points,
        dropped_points=value.dropped_points,
        points_drop_time=stamp(value.points_drop_time),
        lines_drop_time=stamp(value.lines_drop_time),
    )
    if value.origin is not None:
        made.origin.CopyFrom(_origin(value.team, value.origin))
    if value.code != Code():
        made.code.CopyFrom(_code(value.code, diff=whole))
    return made


def experiment(value: Experiment) -> run_pb2.Experiment:
    """An experiment as the API has it."""
    return run_pb2.Experiment(
        name=f"teams/{value.team}/experiments/{value.id}",
        uid=value.uid,
        display_name=value.display_name,
        create_time=stamp(value.create_time),
        update_time=stamp(value.update_time),
        run_count=value.run_count,
    )


def summary(value: Summary) -> run_pb2.MetricSummary:
    """A metric's summary as the API has it."""
    return run_pb2.MetricSummary(
        last=value.last, last_step=value.last_step, min=value.min, max=value.max, count=value.count
    )


def series(team: str, value: Series) -> metric_pb2.Series:
    """A series as the API has it."""
    made = metric_pb2.Series(run=run_name(team, value.run), key=value.key, exact=value.exact)
    # A column at once: a number at a time takes longer than all the reading.
    made.MergeFromString(
        packed.integers(metric_pb2.Series.STEPS_FIELD_NUMBER, value.steps)
        + packed.doubles(metric_pb2.Series.TIMES_FIELD_NUMBER, value.times)
        + packed.doubles(metric_pb2.Series.LAST_FIELD_NUMBER, value.last)
        + packed.doubles(metric_pb2.Series.MIN_FIELD_NUMBER, value.min)
        + packed.doubles(metric_pb2.Series.MAX_FIELD_NUMBER, value.max)
        + packed.integers(metric_pb2.Series.COUNTS_FIELD_NUMBER, value.counts)
    )
    return made


def comparison(value: compare.Table) -> metric_pb2.Comparison:
    """A comparison as the API has it."""
    return metric_pb2.Comparison(
        rows=[
            metric_pb2.Comparison.Row(
                run=run_name(row.run.team, row.run.uid),
                display_name=row.run.display_name,
                axes=row.run.axes,
                state=row.run.state.name,
                params={key: struct_value(item) for key, item in row.params.items()},
                metrics={
                    key: metric_pb2.Comparison.MetricValue(
                        last=item.last, best=item.best, best_step=item.best_step
                    )
                    for key, item in row.metrics.items()
                },
                attempts=len(row.run.attempts),
                duration=row.duration,
            )
            for row in value.rows
        ],
        param_keys=value.param_keys,
        metric_keys=value.metric_keys,
    )


def line(value: logs.StoredLine) -> metric_pb2.LogLine:
    """A console line as the API has it."""
    return metric_pb2.LogLine(
        time=value.time,
        attempt=value.attempt,
        rank=value.rank,
        stream=value.stream,
        text=value.text,
        number=value.number,
    )


def job_fact(job: job_pb2.Job) -> JobFact:
    """A job in the tracker's words. Raises ValueError for one without a team, a uid or a state."""
    parts = job.name.split("/")
    if len(parts) != 4 or parts[0] != "teams" or parts[2] != "jobs" or parts[3] != job.uid or not job.uid:
        raise ValueError(f"a job's name is teams/{{team}}/jobs/{{uid}}: {job.name[:200]!r}")
    return JobFact(
        team=parts[1],
        uid=job.uid,
        revision=job.revision,
        state=JobState(job.state),
        display_name=clean(job.display_name),
        create_time=moment(job, "create_time") or datetime.now(UTC),
        creator=job.creator,
        experiment=job.experiment.rpartition("/")[2] or DEFAULT_EXPERIMENT,
        sweep=job.sweep,
        params=dict(clean_texts(job.spec.params)),
        command=clean(job.spec.run.strip()),
        code=Code(
            digest=job.code.digest,
            size=job.code.size,
            git_commit=clean(job.code.git_commit),
            git_branch=clean(job.code.git_branch),
            git_diff=clean(job.code.git_diff),
        ),
        start_time=moment(job, "start_time"),
        end_time=moment(job, "end_time"),
        cause=_cause(job.cause),
        message=clean(job.message),
        attempts=[_told(attempt) for attempt in job.attempts],
        origin=_told_origin(job.origin) if job.HasField("origin") else None,
        archives=[digest for digest in (job.code.digest, *(one.digest for one in job.spec.mounts)) if digest],
    )


async def tell_created(conn: Any, value: Run, now: datetime) -> None:
    """Puts `run.created` into the outbox."""
    fact = events_pb2.TrackerEvent(run_created=events_pb2.RunCreated(run=_told_run(value)))
    await tell(conn, fact, RunKey(value.team, value.uid), "run", now)


async def tell_updated(conn: Any, value: Run, now: datetime) -> None:
    """Puts `run.updated` into the outbox."""
    fact = events_pb2.TrackerEvent(run_updated=events_pb2.RunUpdated(run=_told_run(value)))
    await tell(conn, fact, RunKey(value.team, value.uid), "run", now)


async def tell_progressed(
    conn: Any, changed: Mapping[RunKey, Mapping[str, Summary]], *, lines: Collection[RunKey],
    media: Collection[MediaKey], now: datetime,
) -> None:  # fmt: skip
    """Puts `run.progressed` of runs with new points, `lines` or `media` into the outbox."""
    facts = []
    looks: dict[RunKey, set[str]] = {}
    for place in media:
        looks.setdefault(RunKey(place.team, place.run), set()).add(place.key)
    for key in sorted({*changed, *lines, *looks}):
        of = changed.get(key, {})
        progress = events_pb2.RunProgressed(
            run=run_name(key.team, key.uid),
            summary={name: summary(of[name]) for name in sorted(of)[:_MOST_PROGRESS_KEYS]},
            lines=key in lines,
            media=sorted(looks.get(key, ()))[:_MOST_PROGRESS_KEYS],
        )
        facts.append(_fact(events_pb2.TrackerEvent(run_progressed=progress), key, "run", now, ACTOR))
    if facts:
        await outbox.add_many(conn, facts)


async def tell(
    conn: Any, fact: events_pb2.TrackerEvent, key: RunKey, resource: str, now: datetime, *, actor: str = ACTOR
) -> None:
    """Puts a fact into the outbox; its arm's name, without the resource's, is the event's."""
    await outbox.add_many(conn, [_fact(fact, key, resource, now, actor)])


def _fact(
    fact: events_pb2.TrackerEvent, key: RunKey, resource: str, now: datetime, actor: str
) -> tuple[str, bytes, str]:
    arm = fact.WhichOneof("event") or ""
    fact.id = new_uid()
    fact.time.FromDatetime(now)
    fact.actor = actor
    event = arm.removeprefix(f"{resource}_")
    return subject("tracker", resource, event, key.team, key.uid), fact.SerializeToString(), fact.id


def stamp(time: datetime | None) -> timestamp_pb2.Timestamp | None:
    """A time as the protos have it."""
    if time is None:
        return None
    made = timestamp_pb2.Timestamp()
    made.FromDatetime(time)
    return made


def moment(message: Any, field: str) -> datetime | None:
    """A message's time, None where it has none."""
    if not message.HasField(field):
        return None
    time: datetime = getattr(message, field).ToDatetime(tzinfo=UTC)
    return time


def struct(values: Mapping[str, Json]) -> struct_pb2.Struct:
    """JSON as a Struct."""
    return struct_pb2.Struct(fields={key: struct_value(item) for key, item in values.items()})


def struct_value(value: Json) -> struct_pb2.Value:
    """A JSON value as a Value."""
    match value:
        case None:
            return struct_pb2.Value(null_value=struct_pb2.NULL_VALUE)
        case bool():
            return struct_pb2.Value(bool_value=value)
        case int() | float():
            return struct_pb2.Value(number_value=value)
        case str():
            return struct_pb2.Value(string_value=value)
        case list():
            items = struct_pb2.ListValue(values=[struct_value(item) for item in value])
            return struct_pb2.Value(list_value=items)
        case dict():
            return struct_pb2.Value(struct_value=struct(value))


def _told_run(value: Run) -> run_pb2.Run:
    """A run in a fact. The bus takes less than a run may hold: then it is told without its largest parts."""
    made = run(value, whole=False)
    if made.ByteSize() > _LARGEST_RUN:
        for field in ("params", "command", "message"):
            made.ClearField(field)
    return made


def _attempt(value: Attempt) -> run_pb2.RunAttempt:
    return run_pb2.RunAttempt(
        number=value.number,
        uid=value.uid,
        state=value.state,
        cause=value.cause,
        resumed_step=value.resumed_step,
        start_time=stamp(value.start_time),
        end_time=stamp(value.end_time),
    )


def _code(value: Code, *, diff: bool) -> run_pb2.RunCode:
    return run_pb2.RunCode(
        digest=value.digest,
        size=value.size,
        git_commit=value.git_commit,
        git_branch=value.git_branch,
        git_diff=value.git_diff if diff else "",
    )


def _origin(team: str, value: Origin) -> run_pb2.Origin:
    return run_pb2.Origin(
        kind=run_pb2.Origin.Kind.ValueType(value.kind),
        run=run_name(team, value.run),
        checkpoint=value.checkpoint,
        step=value.step,
    )


def _told_origin(told: job_pb2.Origin) -> Origin:
    return Origin(OriginKind(told.kind), told.job.rpartition("/")[2], told.checkpoint)


def _told(attempt: job_pb2.Attempt) -> Attempt:
    return Attempt(
        number=attempt.number,
        uid=attempt.uid,
        state=job_pb2.Attempt.State.Name(attempt.state).lower(),
        cause=_cause(attempt.cause),
        start_time=moment(attempt, "start_time"),
        end_time=moment(attempt, "end_time"),
    )


def _cause(cause: job_pb2.Cause.ValueType) -> str:
    """The cause's name in lower case; empty where there is none."""
    return (
        "" if cause == job_pb2.CAUSE_UNSPECIFIED else job_pb2.Cause.Name(cause).removeprefix("CAUSE_").lower()
    )

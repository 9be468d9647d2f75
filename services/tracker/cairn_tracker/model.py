"""What a run is, and how it follows its job. Pure: values in, values out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import IntEnum
from typing import TypeAlias

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"

# How long after its job's end a run waits for the last attempt's last word.
DRAIN_GRACE = timedelta(seconds=60)

SYSTEM = "system/"
DEFAULT_EXPERIMENT = "default"


class RunState(IntEnum):
    """The numbers of `cairn.tracker.v1.Run.State`."""

    PENDING = 1
    RUNNING = 2
    RECOVERING = 3
    SUCCEEDED = 4
    FAILED = 5
    CANCELLED = 6
    TIMED_OUT = 7


class JobState(IntEnum):
    """The numbers of `cairn.scheduler.v1.Job.State`."""

    PENDING = 1
    ADMITTED = 2
    LAUNCHING = 3
    RUNNING = 4
    RECOVERING = 5
    SUCCEEDED = 6
    FAILED = 7
    CANCELLED = 8
    TIMED_OUT = 9
    PREEMPTING = 10
    HELD = 11


FINAL_STATES = frozenset({RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED, RunState.TIMED_OUT})

_BY_JOB_STATE = {
    JobState.RUNNING: RunState.RUNNING,
    JobState.RECOVERING: RunState.RECOVERING,
    JobState.PREEMPTING: RunState.RUNNING,
    JobState.SUCCEEDED: RunState.SUCCEEDED,
    JobState.FAILED: RunState.FAILED,
    JobState.CANCELLED: RunState.CANCELLED,
    JobState.TIMED_OUT: RunState.TIMED_OUT,
}


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try of a run's job."""

    number: int
    uid: str = ""
    # In lower case, as the scheduler names them; empty while only the run's own events are known.
    state: str = ""
    cause: str = ""
    resumed_step: int | None = None
    start_time: datetime | None = None
    end_time: datetime | None = None
    # Its last word has arrived: nothing of it is still on its way.
    drained: bool = False


@dataclass(frozen=True, slots=True)
class Code:
    """The archive that a run's command ran from, and its git state."""

    digest: str = ""
    size: int = 0
    git_commit: str = ""
    git_branch: str = ""
    git_diff: str = ""


class OriginKind(IntEnum):
    """The numbers of `cairn.tracker.v1.Origin.Kind`, and of the scheduler's."""

    RERUN = 1
    RESUME = 2


@dataclass(frozen=True, slots=True)
class Origin:
    """The run that another one was made from; of what was resumed the version's name, and its step."""

    kind: OriginKind
    run: str
    checkpoint: str = ""
    step: int | None = None


@dataclass(frozen=True, slots=True)
class Tail:
    """What the last bucket of a metric holds (`buckets`), for later points to be added to it."""

    first_step: int
    count: int
    # As in a summary.
    min: float | None
    min_step: int
    max: float | None
    max_step: int


@dataclass(frozen=True, slots=True)
class Summary:
    """What one metric came to in one run, re-logged steps counted once."""

    last: float
    last_step: int
    count: int
    # NaN and infinities are left out; None: there was nothing else.
    min: float | None = None
    min_step: int = 0
    max: float | None = None
    max_step: int = 0
    # Known where points are added only.
    tail: Tail | None = field(default=None, compare=False)
    # Of the last value; microseconds since 1970.
    last_time: int = field(default=0, compare=False)
    # Steps up to the last one before were logged late, or over.
    revisited: bool = field(default=False, compare=False)


@dataclass(frozen=True, slots=True)
class Run:
    """A record of work."""

    team: str
    uid: str
    display_name: str
    create_time: datetime
    update_time: datetime
    state: RunState
    revision: int
    creator: str = ""
    experiment: str = DEFAULT_EXPERIMENT
    # Whether a job of the same uid stands behind it.
    has_job: bool = False
    sweep: str = ""
    params: Mapping[str, Json] = field(default_factory=dict)
    tags: Sequence[str] = ()
    command: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    code: Code = Code()
    start_time: datetime | None = None
    end_time: datetime | None = None
    cause: str = ""
    message: str = ""
    complete: bool = False
    # When something of it last arrived.
    last_seen: datetime | None = None
    attempts: Sequence[Attempt] = ()
    summary: Mapping[str, Summary] = field(default_factory=dict)
    group: str = ""
    notes: str = ""
    # The metric that others are drawn over, by their keys with `*`.
    axes: Mapping[str, str] = field(default_factory=dict)
    # What MLflow's clients call tags.
    labels: Mapping[str, str] = field(default_factory=dict)
    origin: Origin | None = None
    # Points that are not there: left out by the tracker, or lost where they were logged.
    rejected_points: int = 0
    dropped_points: int = 0
    # When raw points and console lines went by a rule of the team's; None: they have not.
    points_drop_time: datetime | None = None
    lines_drop_time: datetime | None = None

    @property
    def etag(self) -> str:
        return str(self.revision)


def is_system(key: str) -> bool:
    """Whether a metric tells what a job used of its machine: shown where it is asked for."""
    return key.startswith(SYSTEM)


@dataclass(frozen=True, slots=True)
class JobFact:
    """What a scheduler's event says of a job, in the tracker's words."""

    team: str
    uid: str
    revision: int
    state: JobState
    display_name: str
    create_time: datetime
    creator: str
    experiment: str
    sweep: str
    params: Mapping[str, Json]
    command: str
    code: Code
    start_time: datetime | None
    end_time: datetime | None
    cause: str
    message: str
    attempts: Sequence[Attempt]
    origin: Origin | None = None
    # Digests of archives that its runner unpacks.
    archives: Sequence[str] = ()


def run_state(state: JobState, attempts: int) -> RunState:
    """The run's state for its job's: what waits, or is set up, before it ever ran is pending, and what does
    so between two attempts is recovering."""
    settled = _BY_JOB_STATE.get(state)
    if settled is not None:
        return settled
    earlier = attempts - 1 if state is JobState.LAUNCHING else attempts
    return RunState.RECOVERING if earlier > 0 else RunState.PENDING


def is_complete(
    state: RunState, attempts: Sequence[Attempt], end_time: datetime | None, now: datetime
) -> bool:
    """Whether nothing more will come for the run of a job."""
    if state not in FINAL_STATES:
        return False
    if not attempts or max(attempts, key=lambda attempt: attempt.number).drained:
        return True
    return end_time is not None and now - end_time >= DRAIN_GRACE


def merge_attempts(known: Sequence[Attempt], told: Sequence[Attempt]) -> tuple[Attempt, ...]:
    """The scheduler's account of the attempts over the known one, which keeps what the run itself told."""
    before = {attempt.number: attempt for attempt in known}
    for attempt in told:
        old = before.get(attempt.number)
        if old is not None:
            attempt = replace(attempt, resumed_step=old.resumed_step, drained=old.drained)
        before[attempt.number] = attempt
    return tuple(before[number] for number in sorted(before))

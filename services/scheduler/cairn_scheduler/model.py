"""Jobs and attempts as values, their states, and the only steps that are legal between them.

Pure: each step takes a job and the time and returns the next version of the job, one revision on.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum

from cairn_scheduler.origin import Origin


class State(StrEnum):
    """Where a job is on its way."""

    PENDING = "PENDING"
    ADMITTED = "ADMITTED"
    LAUNCHING = "LAUNCHING"
    RUNNING = "RUNNING"
    RECOVERING = "RECOVERING"
    PREEMPTING = "PREEMPTING"
    HELD = "HELD"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    TIMED_OUT = "TIMED_OUT"

    @property
    def final(self) -> bool:
        """Nothing follows it."""
        return not STEPS[self]

    @property
    def placed(self) -> bool:
        """The job holds its slots and its reservation."""
        return self in PLACED


class AttemptState(StrEnum):
    """Where one try of a job is."""

    LAUNCHING = "LAUNCHING"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @property
    def active(self) -> bool:
        """Something of it may still run."""
        return self in (AttemptState.LAUNCHING, AttemptState.RUNNING)


class Cause(StrEnum):
    """Why an attempt ended other than well. A closed set."""

    USER_ERROR = "USER_ERROR"
    OOM = "OOM"
    INFRA = "INFRA"
    SPOT = "SPOT"
    PREEMPTED = "PREEMPTED"
    TIMEOUT = "TIMEOUT"
    BUDGET = "BUDGET"
    CANCELLED = "CANCELLED"
    LOST = "LOST"


class Hold(StrEnum):
    """Who keeps a job out of the queue. A closed set."""

    USER = "USER"
    ADMIN = "ADMIN"
    DEPENDENCY = "DEPENDENCY"
    BUDGET = "BUDGET"


PLACED = frozenset({State.ADMITTED, State.LAUNCHING, State.RUNNING, State.RECOVERING, State.PREEMPTING})

# The database holds the same table (the newest migration with a jobs_step); a test compares the two.
STEPS: dict[State, frozenset[State]] = {
    State.PENDING: frozenset({State.ADMITTED, State.CANCELLED, State.HELD}),
    State.HELD: frozenset({State.PENDING, State.CANCELLED}),
    State.ADMITTED: frozenset({State.LAUNCHING, State.CANCELLED, State.PENDING, State.HELD}),
    State.LAUNCHING: frozenset(
        {
            State.RUNNING,
            State.RECOVERING,
            State.PREEMPTING,
            State.PENDING,
            State.FAILED,
            State.CANCELLED,
            State.TIMED_OUT,
        }
    ),
    State.RUNNING: frozenset(
        {
            State.SUCCEEDED,
            State.RECOVERING,
            State.PREEMPTING,
            State.PENDING,
            State.FAILED,
            State.CANCELLED,
            State.TIMED_OUT,
        }
    ),
    # It may still end by itself before it is stopped.
    State.PREEMPTING: frozenset(
        {State.PENDING, State.HELD, State.SUCCEEDED, State.FAILED, State.CANCELLED, State.TIMED_OUT}
    ),
    State.RECOVERING: frozenset({State.LAUNCHING, State.PENDING, State.HELD, State.CANCELLED}),
    State.SUCCEEDED: frozenset(),
    State.FAILED: frozenset(),
    State.CANCELLED: frozenset(),
    State.TIMED_OUT: frozenset(),
}

ATTEMPT_STEPS: dict[AttemptState, frozenset[AttemptState]] = {
    AttemptState.LAUNCHING: frozenset({AttemptState.RUNNING, AttemptState.FAILED, AttemptState.CANCELLED}),
    AttemptState.RUNNING: frozenset({AttemptState.SUCCEEDED, AttemptState.FAILED, AttemptState.CANCELLED}),
    AttemptState.SUCCEEDED: frozenset(),
    AttemptState.FAILED: frozenset(),
    AttemptState.CANCELLED: frozenset(),
}


class IllegalStep(Exception):
    """A step that the state machine does not have; on the wire FAILED_PRECONDITION."""


def pool_of(infra: str) -> str:
    """The pool that reaches an infra."""
    return "skypilot" if infra else "local"


@dataclass(frozen=True, slots=True)
class Resources:
    """What one rank needs, or what a place has: thousandths of a core, whole GPUs, MiB."""

    cpu_milli: int = 1000
    gpus: int = 0
    accelerator: str = ""
    memory_mib: int = 0

    def times(self, ranks: int) -> Resources:
        """The same for `ranks` ranks together."""
        return Resources(self.cpu_milli * ranks, self.gpus * ranks, self.accelerator, self.memory_mib * ranks)


@dataclass(frozen=True, slots=True)
class Environment:
    """The Python environment to run in. Of requirements, lock and conda at most one is given.

    Files are paths in the working directory. Empty `python`: the one of the place.
    """

    python: str = ""
    requirements: tuple[str, ...] = ()
    requirements_file: str = ""
    lock: str = ""
    conda: str = ""


@dataclass(frozen=True, slots=True)
class Mount:
    """Files of the caller's machine at a path on the node: an archive as of code. `file`: it holds one, which
    is to be `target` itself."""

    target: str
    digest: str
    size: int
    file: bool = False


@dataclass(frozen=True, slots=True)
class Spec:
    """What to run, resolved from a task file. Durations in seconds."""

    task: str
    setup: str
    run: str
    envs: dict[str, str] = field(default_factory=dict)
    num_nodes: int = 1
    resources: Resources = Resources()
    max_retries: int = 3
    # Of causes that have an allowance of their own: how many more attempts.
    retries: dict[Cause, int] = field(default_factory=dict)
    max_runtime: float | None = None
    grace: float = 10.0
    params: dict[str, str] = field(default_factory=dict)
    environment: Environment | None = None
    # Where, in SkyPilot's words; empty: on this machine.
    infra: str = ""
    # Variables whose values are kept apart (`vault`), and files of the caller's machine.
    secrets: tuple[str, ...] = ()
    mounts: tuple[Mount, ...] = ()
    origin: Origin | None = None

    @property
    def pool(self) -> str:
        """The only pool that it can run in."""
        return pool_of(self.infra)

    @property
    def need(self) -> Resources:
        """What all ranks need together."""
        return self.resources.times(self.num_nodes)


@dataclass(frozen=True, slots=True)
class Dependency:
    """A job, or all jobs of a sweep, that is to end before. `any`: however it ends; else it is to succeed."""

    uid: str
    # As people call it.
    title: str = ""
    sweep: bool = False
    any: bool = False


@dataclass(frozen=True, slots=True)
class Code:
    """The content-addressed archive of the working directory; an empty digest means none."""

    digest: str = ""
    size: int = 0
    git_commit: str = ""
    git_branch: str = ""
    git_diff: str = ""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try of a job."""

    uid: str
    number: int
    state: AttemptState
    cluster: str
    create_time: datetime
    cause: Cause | None = None
    exit_code: int | None = None
    signal: int = 0
    message: str = ""
    start_time: datetime | None = None
    end_time: datetime | None = None
    pids: tuple[int, ...] = ()
    # It ended because there was no room for it.
    no_capacity: bool = False
    # Nothing of it is left. Written by whoever tidied it up, never with the job.
    close_time: datetime | None = None
    # The ways that it may go on SkyPilot (circuits.py).
    circuits: tuple[str, ...] = ()
    # It gave its place up on request: such an attempt does not count as a failure.
    yielded: bool = False
    # Millionths of a US dollar for an hour of all its machines, by the place's account; 0: not known.
    price: int = 0


@dataclass(frozen=True, slots=True)
class Job:
    """Work to run, at one revision."""

    uid: str
    team: str
    state: State
    revision: int
    creator: str
    create_time: datetime
    update_time: datetime
    spec: Spec
    display_name: str = ""
    experiment: str = ""
    sweep: str = ""
    code: Code = Code()
    priority: int = 0
    reason: str = ""
    cause: Cause | None = None
    message: str = ""
    attempts: tuple[Attempt, ...] = ()
    cancel_time: datetime | None = None
    start_time: datetime | None = None
    end_time: datetime | None = None
    retry_time: datetime | None = None
    admissions: int = 0
    # The pool that holds its slots, from ADMITTED on.
    pool: str = ""
    # Who keeps it out of the queue, or will once its attempt has ended.
    hold: Hold | None = None
    # When its last checkpoint was committed.
    checkpoint_time: datetime | None = None
    # Where it counts below its team, its class, and the flavors of the quota tree that it takes, in order.
    project: str = ""
    priority_class: str = ""
    flavors: tuple[str, ...] = ()
    # What it was submitted to run after.
    after: tuple[Dependency, ...] = ()
    # The flavor that it holds, from ADMITTED on, and since when.
    flavor: str = ""
    admit_time: datetime | None = None
    # In PREEMPTING: the job that gets its place (empty: none), and since when.
    preempted_for: str = ""
    preempt_time: datetime | None = None

    @property
    def active(self) -> Attempt | None:
        """The attempt that may still run; at most one."""
        return next((a for a in self.attempts if a.state.active), None)

    @property
    def reservation(self) -> str:
        """The id of the reservation that its current admission holds."""
        return f"{self.uid}-{self.admissions}"


@dataclass(frozen=True, slots=True)
class Ending:
    """How an attempt ended, decided from its evidence. `cause` is None where it ended well.

    `hopeless`: another attempt would meet the same.
    """

    cause: Cause | None
    message: str
    exit_code: int | None
    signal: int
    start_time: datetime | None
    end_time: datetime
    no_capacity: bool = False
    hopeless: bool = False
    yielded: bool = False


def admit(job: Job, now: datetime, *, admission: int, pool: str) -> Job:
    """Quota is reserved under `{uid}-{admission}`: the job holds a place in the pool."""
    return step(job, State.ADMITTED, now, reason="", admissions=admission, pool=pool, retry_time=None)


def launch(job: Job, now: datetime, *, attempt_uid: str, circuits: tuple[str, ...] = ()) -> Job:
    """A new attempt is about to start; this is the intent, written before anything runs."""
    attempt = Attempt(
        uid=attempt_uid,
        number=len(job.attempts) + 1,
        state=AttemptState.LAUNCHING,
        cluster=job.pool,
        create_time=now,
        circuits=circuits,
    )
    return step(job, State.LAUNCHING, now, attempts=(*job.attempts, attempt), retry_time=None)


def run(job: Job, now: datetime, *, start_time: datetime, pids: tuple[int, ...]) -> Job:
    """The command of the active attempt runs; of a job that is being preempted, too."""
    attempt = _active(job)
    changed = replace(
        attempt,
        state=_attempt_step(attempt, AttemptState.RUNNING),
        start_time=start_time,
        pids=pids,
    )
    attempts, began = _with(job, changed), job.start_time or start_time
    if job.state is State.PREEMPTING:
        return remark(job, now, attempts=attempts, start_time=began)
    return step(job, State.RUNNING, now, attempts=attempts, start_time=began)


def priced(job: Job, now: datetime, price: int) -> Job:
    """What an hour of the active attempt costs is known."""
    return remark(job, now, attempts=_with(job, replace(_active(job), price=price)))


def finish(job: Job, now: datetime, ending: Ending) -> Job:
    """The active attempt ended and no other follows."""
    if ending.cause is None:
        state = State.SUCCEEDED
    elif job.cancel_time is not None or ending.cause is Cause.CANCELLED:
        state = State.CANCELLED
    elif ending.cause is Cause.TIMEOUT:
        state = State.TIMED_OUT
    else:
        state = State.FAILED
    return step(
        job,
        state,
        now,
        attempts=ended(job, ending),
        cause=ending.cause,
        message=ending.message,
        end_time=now,
        reason="",
        hold=None,
    )


def recover(job: Job, now: datetime, ending: Ending, *, retry_time: datetime) -> Job:
    """The active attempt ended, another follows at `retry_time`; place and quota are kept."""
    return step(
        job,
        State.RECOVERING,
        now,
        attempts=ended(job, ending),
        cause=ending.cause,
        message=ending.message,
        retry_time=retry_time,
    )


def requeue(job: Job, now: datetime, ending: Ending, *, retry_time: datetime) -> Job:
    """The active attempt ended, another follows much later: place and quota are given back."""
    if job.state is State.PREEMPTING:
        raise IllegalStep(f"job {job.uid} gives its place up; that is yielding.preempted's")
    return step(
        job,
        State.PENDING,
        now,
        attempts=ended(job, ending),
        cause=ending.cause,
        message=ending.message,
        retry_time=retry_time,
        pool="",
        reason=f"WaitingForRetry: the next attempt comes after {retry_time:%Y-%m-%d %H:%M:%S} UTC",
    )


def cancel(job: Job, now: datetime) -> Job:
    """Cancellation is asked for: at once where nothing runs, else once the attempt has ended.

    Raises IllegalStep in a final state other than CANCELLED; there the job comes back as it is.
    """
    if job.state is State.CANCELLED or (job.cancel_time is not None and not job.state.final):
        return job
    if job.state.final:
        raise IllegalStep(f"job {job.uid} has ended as {job.state}; it cannot be cancelled")
    if job.active is not None:
        return remark(job, now, cancel_time=now)
    return step(
        job,
        State.CANCELLED,
        now,
        cancel_time=now,
        end_time=now,
        cause=Cause.CANCELLED,
        message="Cancelled before it ran." if not job.attempts else "Cancelled between two attempts.",
        reason="",
        retry_time=None,
        hold=None,
    )


def remark(job: Job, now: datetime, **changes: object) -> Job:
    """The next version in the same state."""
    return replace(job, revision=job.revision + 1, update_time=now, **changes)  # type: ignore[arg-type]


def step(job: Job, state: State, now: datetime, **changes: object) -> Job:
    """The next version in another state. Raises IllegalStep."""
    if state not in STEPS[job.state]:
        raise IllegalStep(f"job {job.uid} cannot go from {job.state} to {state}")
    return replace(job, state=state, revision=job.revision + 1, update_time=now, **changes)  # type: ignore[arg-type]


def _attempt_step(attempt: Attempt, state: AttemptState) -> AttemptState:
    if state not in ATTEMPT_STEPS[attempt.state]:
        raise IllegalStep(f"attempt {attempt.uid} cannot go from {attempt.state} to {state}")
    return state


def _active(job: Job) -> Attempt:
    if job.active is None:
        raise IllegalStep(f"job {job.uid} has no active attempt")
    return job.active


def ended(job: Job, ending: Ending) -> tuple[Attempt, ...]:
    """The attempts of a job whose active one has ended so."""
    attempt = _active(job)
    states = {None: AttemptState.SUCCEEDED, Cause.CANCELLED: AttemptState.CANCELLED}
    changed = replace(
        attempt,
        state=_attempt_step(attempt, states.get(ending.cause, AttemptState.FAILED)),
        cause=ending.cause,
        exit_code=ending.exit_code,
        signal=ending.signal,
        message=ending.message,
        start_time=attempt.start_time or ending.start_time,
        end_time=ending.end_time,
        no_capacity=ending.no_capacity,
        yielded=ending.yielded,
    )
    return _with(job, changed)


def _with(job: Job, changed: Attempt) -> tuple[Attempt, ...]:
    return tuple(changed if a.uid == changed.uid else a for a in job.attempts)


# How long a job keeps its place between two attempts.
LONGEST_HOLD = timedelta(seconds=60)

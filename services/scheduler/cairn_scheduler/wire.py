"""Between the scheduler's values and the messages of cairn.scheduler.v1."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from cairn.scheduler.v1 import job_pb2, sweep_pb2, timeline_pb2
from cairn_common.errors import InvalidArgument, Reason
from cairn_scheduler.model import (
    Attempt,
    Cause,
    Code,
    Dependency,
    Environment,
    Job,
    Mount,
    Resources,
    Spec,
    State,
)
from cairn_scheduler.origin import Origin
from cairn_scheduler.timeline import Moment

MOST_DIFF_BYTES = 256 * 1024
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_BRIEF_MESSAGE = 300
# gRPC takes 4 MiB; beyond this a sweep's jobs show their last attempt alone.
_MOST_SWEEP_BYTES = 3 * 2**20


def timestamp(time: datetime | None) -> Timestamp | None:
    """The message of a moment; None stays absent."""
    if time is None:
        return None
    since = time - _EPOCH
    return Timestamp(seconds=since.days * 86_400 + since.seconds, nanos=since.microseconds * 1000)


def job_message(job: Job) -> job_pb2.Job:
    """As Job on the wire, whole."""
    return job_pb2.Job(
        name=f"teams/{job.team}/jobs/{job.uid}" if job.uid else "",
        uid=job.uid,
        display_name=job.display_name,
        create_time=timestamp(job.create_time),
        update_time=timestamp(job.update_time),
        etag=str(job.revision),
        state=job_pb2.Job.State.Value(job.state.value),
        revision=job.revision,
        creator=job.creator,
        experiment=job.experiment,
        sweep=f"teams/{job.team}/sweeps/{job.sweep}" if job.sweep else "",
        spec=_spec(job.spec),
        code=_code(job.code),
        priority=job.priority,
        reason=job.reason,
        cause=_cause(job.cause),
        message=job.message,
        attempts=[_attempt(job, attempt) for attempt in job.attempts],
        cancel_time=timestamp(job.cancel_time),
        start_time=timestamp(job.start_time),
        end_time=timestamp(job.end_time),
        retry_time=timestamp(job.retry_time),
        admissions=job.admissions,
        hold=job_pb2.Job.Hold.Value(f"HOLD_{job.hold}") if job.hold else job_pb2.Job.HOLD_UNSPECIFIED,
        checkpoint_time=timestamp(job.checkpoint_time),
        after=[_dependency(job.team, one) for one in job.after],
        origin=_origin(job.team, job.spec.origin),
    )


def another_message(message: job_pb2.Job, job: Job) -> job_pb2.Job:
    """As `job_message`, of a new job that is like that message's but for its uid."""
    made = job_pb2.Job()
    made.CopyFrom(message)
    made.uid = job.uid
    made.name = f"teams/{job.team}/jobs/{job.uid}"
    return made


def timeline_message(job: Job, moments: Iterable[Moment]) -> timeline_pb2.Timeline:
    """As Timeline on the wire."""
    return timeline_pb2.Timeline(
        job=f"teams/{job.team}/jobs/{job.uid}",
        moments=[
            timeline_pb2.Moment(
                kind=timeline_pb2.Moment.Kind.Value(moment.kind.value),
                time=timestamp(moment.time),
                end_time=timestamp(moment.end_time),
                attempt=moment.attempt,
                text=moment.text,
                cause=_cause(moment.cause),
                state=job_pb2.Job.State.Value(moment.state.value if moment.state else "STATE_UNSPECIFIED"),
                last_lines=moment.last_lines,
            )
            for moment in moments
        ],
    )


def brief(message: job_pb2.Job) -> job_pb2.Job:
    """The job without what is long, as it stands in a sweep of up to 1,000: GetJob has the rest."""
    for field in ("task", "setup", "run", "environment"):
        message.spec.ClearField(field)
    message.code.ClearField("git_diff")
    message.ClearField("after")
    message.message = message.message[:_BRIEF_MESSAGE]
    for attempt in message.attempts:
        attempt.message = attempt.message[:_BRIEF_MESSAGE]
    return message


def sweep_message(
    *, team: str, uid: str, display_name: str, create_time: datetime, creator: str, jobs: Iterable[Job]
) -> sweep_pb2.Sweep:
    """As Sweep on the wire, its jobs brief."""
    messages = [brief(job_message(job)) for job in jobs]
    if sum(message.ByteSize() for message in messages) > _MOST_SWEEP_BYTES:
        for message in messages:
            del message.attempts[:-1]
    return sweep_pb2.Sweep(
        name=f"teams/{team}/sweeps/{uid}" if uid else "",
        uid=uid,
        display_name=display_name,
        create_time=timestamp(create_time),
        creator=creator,
        experiment=messages[0].experiment if messages else "",
        jobs=messages,
    )


def code_value(message: job_pb2.CodeRef) -> Code:
    """The code that a caller names. Raises InvalidArgument where it cannot be one."""
    digest = message.digest
    if digest and (len(digest) != 64 or not set(digest) <= set("0123456789abcdef")):
        raise InvalidArgument(
            f"code.digest: {digest[:80]!r} is not a SHA-256 in lower-case hex",
            reason=Reason.DIGEST_INVALID,
            field="code.digest",
        )
    if message.size < 0:
        raise InvalidArgument(f"code.size: {message.size} is negative", field="code.size")
    if len(message.git_diff.encode()) > MOST_DIFF_BYTES:
        raise InvalidArgument(
            f"code.git_diff is larger than {MOST_DIFF_BYTES // 1024} KiB; cut it", field="code.git_diff"
        )
    for field in ("git_commit", "git_branch", "git_diff"):
        value: str = getattr(message, field)
        if "\0" in value or (field != "git_diff" and len(value) > 500):
            raise InvalidArgument(
                f"code.{field} cannot be used: too long, or it holds NUL", field=f"code.{field}"
            )
    return Code(digest, message.size, message.git_commit, message.git_branch, message.git_diff)


def mount_values(messages: Iterable[job_pb2.Mount]) -> list[Mount]:
    """The archives that a caller names, unchecked."""
    return [Mount(one.target, one.digest, one.size, one.file) for one in messages]


def resources_message(resources: Resources) -> job_pb2.Resources:
    """As Resources on the wire."""
    return job_pb2.Resources(
        cpu_milli=resources.cpu_milli,
        gpus=resources.gpus,
        accelerator=resources.accelerator,
        memory_mib=resources.memory_mib,
    )


def states(numbers: Iterable[int]) -> list[State]:
    """The states that a filter names. Raises InvalidArgument for one that is not known."""
    try:
        return [State(job_pb2.Job.State.Name(job_pb2.Job.State.ValueType(number))) for number in numbers]
    except ValueError:
        raise InvalidArgument("states: holds one that is not known", field="states") from None


class _Itself:
    """A spec that is the same as itself alone: what it holds need not be compared."""

    __slots__ = ("spec",)

    def __init__(self, spec: Spec) -> None:
        self.spec = spec

    def __hash__(self) -> int:
        return id(self.spec)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Itself) and other.spec is self.spec


def _spec(spec: Spec) -> job_pb2.JobSpec:
    """To be copied, not changed: jobs of one text share their spec."""
    return _made(_Itself(spec))


@lru_cache(maxsize=64)
def _made(itself: _Itself) -> job_pb2.JobSpec:
    spec = itself.spec
    return job_pb2.JobSpec(
        task=spec.task,
        setup=spec.setup,
        run=spec.run,
        envs=spec.envs,
        num_nodes=spec.num_nodes,
        resources=resources_message(spec.resources),
        max_retries=spec.max_retries,
        retries={cause.value.lower(): count for cause, count in spec.retries.items()},
        max_runtime=_duration(spec.max_runtime),
        grace=_duration(spec.grace),
        params=spec.params,
        environment=_environment(spec.environment),
        secrets=spec.secrets,
        mounts=[
            job_pb2.Mount(target=one.target, digest=one.digest, size=one.size, file=one.file)
            for one in spec.mounts
        ],
    )


def _environment(environment: Environment | None) -> job_pb2.Environment | None:
    if environment is None:
        return None
    return job_pb2.Environment(
        python=environment.python,
        requirements=environment.requirements,
        requirements_file=environment.requirements_file,
        lock=environment.lock,
        conda=environment.conda,
    )


def _dependency(team: str, one: Dependency) -> job_pb2.Dependency:
    return job_pb2.Dependency(
        name=f"teams/{team}/{'sweeps' if one.sweep else 'jobs'}/{one.uid}",
        display_name=one.title,
        condition=job_pb2.Dependency.ANY if one.any else job_pb2.Dependency.OK,
    )


def _origin(team: str, origin: Origin | None) -> job_pb2.Origin | None:
    if origin is None:
        return None
    return job_pb2.Origin(
        kind=job_pb2.Origin.Kind.Value(origin.kind.value),
        job=f"teams/{team}/jobs/{origin.job}",
        checkpoint=origin.checkpoint,
    )


def _code(code: Code) -> job_pb2.CodeRef:
    return job_pb2.CodeRef(
        digest=code.digest,
        size=code.size,
        git_commit=code.git_commit,
        git_branch=code.git_branch,
        git_diff=code.git_diff,
    )


def _attempt(job: Job, attempt: Attempt) -> job_pb2.Attempt:
    return job_pb2.Attempt(
        name=f"teams/{job.team}/jobs/{job.uid}/attempts/{attempt.uid}",
        uid=attempt.uid,
        number=attempt.number,
        state=job_pb2.Attempt.State.Value(attempt.state.value),
        cluster=attempt.cluster,
        cause=_cause(attempt.cause),
        exit_code=attempt.exit_code,
        signal=attempt.signal,
        message=attempt.message,
        create_time=timestamp(attempt.create_time),
        start_time=timestamp(attempt.start_time),
        end_time=timestamp(attempt.end_time),
        close_time=timestamp(attempt.close_time),
        pids=attempt.pids,
        price_micros_per_hour=attempt.price,
    )


def _cause(cause: Cause | None) -> job_pb2.Cause.ValueType:
    return job_pb2.CAUSE_UNSPECIFIED if cause is None else job_pb2.Cause.Value(f"CAUSE_{cause.value}")


def _duration(seconds: float | None) -> Duration | None:
    if seconds is None:
        return None
    message = Duration()
    message.FromTimedelta(timedelta(seconds=seconds))
    return message

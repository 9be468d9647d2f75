"""Between quota's values and the messages of cairn.quota.v1 and cairn.scheduler.v1."""

from __future__ import annotations

from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp

from cairn.quota.v1 import quota_pb2, reservation_pb2, team_pb2, token_pb2
from cairn.scheduler.v1 import job_pb2
from cairn_quota.model import (
    Amounts,
    AttemptTimes,
    JobPhase,
    JobView,
    Limits,
    Reservation,
    Team,
    Token,
    Usage,
)

FINAL = frozenset({job_pb2.Job.SUCCEEDED, job_pb2.Job.FAILED, job_pb2.Job.CANCELLED, job_pb2.Job.TIMED_OUT})
PLACED = (job_pb2.Job.ADMITTED, job_pb2.Job.LAUNCHING, job_pb2.Job.RUNNING, job_pb2.Job.RECOVERING)


def timestamp(time: datetime | None) -> Timestamp | None:
    """The message of a moment; None stays absent."""
    if time is None:
        return None
    message = Timestamp()
    message.FromDatetime(time)
    return message


def moment(message: Timestamp) -> datetime:
    """The moment in UTC. Raises ValueError beyond year 9999."""
    return message.ToDatetime(tzinfo=UTC)


def amounts_message(amounts: Amounts) -> team_pb2.Amounts:
    """As Amounts on the wire."""
    return team_pb2.Amounts(gpus=amounts.gpus, cpu_milli=amounts.cpu_milli, jobs=amounts.jobs)


def limits_value(message: team_pb2.Limits) -> Limits:
    """An absent limit is None."""
    return Limits(
        gpus=message.gpus if message.HasField("gpus") else None,
        cpu_milli=message.cpu_milli if message.HasField("cpu_milli") else None,
        jobs=message.jobs if message.HasField("jobs") else None,
    )


def team_message(team: Team) -> team_pb2.Team:
    """As Team on the wire."""
    limits = team.limits
    return team_pb2.Team(
        name=f"teams/{team.id}",
        uid=team.uid,
        display_name=team.display_name,
        create_time=timestamp(team.create_time),
        update_time=timestamp(team.update_time),
        etag=team.etag,
        limits=team_pb2.Limits(gpus=limits.gpus, cpu_milli=limits.cpu_milli, jobs=limits.jobs),
        held=amounts_message(team.held),
    )


def reservation_message(reservation: Reservation) -> reservation_pb2.Reservation:
    """As Reservation on the wire."""
    return reservation_pb2.Reservation(
        name=f"teams/{reservation.team}/reservations/{reservation.id}",
        uid=reservation.uid,
        job=f"teams/{reservation.team}/jobs/{reservation.job_uid}",
        amounts=amounts_message(reservation.amounts),
        state=reservation_pb2.Reservation.State.ValueType(reservation.state),
        create_time=timestamp(reservation.create_time),
        end_time=timestamp(reservation.end_time),
        node=reservation.node,
        flavor=reservation.flavor,
        resources=reservation.resources,
        user=f"users/{reservation.user}" if reservation.user else "",
        project=reservation.project,
        price_micros_per_hour=reservation.price,
    )


def usage_message(team: str, usage: Usage) -> quota_pb2.Usage:
    """As Usage on the wire: seconds."""
    return quota_pb2.Usage(
        team=f"teams/{team}",
        gpu_seconds=usage.gpu_millis / 1e3,
        cpu_seconds=usage.cpu_micros / 1e6,
        attempts=usage.attempts,
    )


def token_message(token: Token) -> token_pb2.Token:
    """As Token on the wire."""
    return token_pb2.Token(
        name=f"tokens/{token.uid}",
        uid=token.uid,
        display_name=token.display_name,
        create_time=timestamp(token.create_time),
        expire_time=timestamp(token.expire_time),
        revoke_time=timestamp(token.revoke_time),
        subject=token.subject,
        scope=token_pb2.Scope.ValueType(token.scope),
        team=token.team,
        run_uid=token.run_uid,
        attempt_uid=token.attempt_uid,
        session=token.session,
    )


def job_view(job: job_pb2.Job) -> JobView:
    """What metering and settling need of a job. Raises ValueError where its name and uid do not agree."""
    team, _, uid = job.name.removeprefix("teams/").partition("/jobs/")
    if not team or uid != job.uid or job.name != f"teams/{team}/jobs/{uid}" or job.revision < 0:
        raise ValueError(f"not a job of the scheduler: name {job.name!r}, uid {job.uid!r}")
    nodes = max(1, job.spec.num_nodes)
    return JobView(
        team=team,
        uid=uid,
        revision=job.revision,
        phase=_phase(job.state),
        admissions=job.admissions,
        creator=job.creator,
        gpus=nodes * max(0, job.spec.resources.gpus),
        cpu_milli=nodes * max(0, job.spec.resources.cpu_milli),
        attempts=tuple(_attempt(one) for one in job.attempts),
    )


def _phase(state: job_pb2.Job.State.ValueType) -> JobPhase:
    if state in FINAL:
        return JobPhase.FINAL
    if state in (job_pb2.Job.PENDING, job_pb2.Job.HELD):
        return JobPhase.QUEUED
    if state == job_pb2.Job.STATE_UNSPECIFIED:
        raise ValueError("a job without a state")
    # Also a newer scheduler's states: what may still run keeps what it holds.
    return JobPhase.PLACED


def _attempt(attempt: job_pb2.Attempt) -> AttemptTimes:
    return AttemptTimes(
        uid=attempt.uid,
        start_time=moment(attempt.start_time) if attempt.HasField("start_time") else None,
        end_time=moment(attempt.end_time) if attempt.HasField("end_time") else None,
        price=max(0, attempt.price_micros_per_hour),
    )

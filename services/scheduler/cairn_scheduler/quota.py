"""What the scheduler asks of the quota service: limits, reservations, run tokens."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeVar

from google.protobuf.duration_pb2 import Duration
from grpc import aio

from cairn.quota.v1 import quota_pb2, quota_pb2_grpc, team_pb2, token_pb2
from cairn_common.errors import FailedPrecondition, NotFound, Reason, ResourceExhausted, from_rpc_error
from cairn_scheduler.model import Job
from cairn_scheduler.plan import Limit

TOKEN_LIFE = timedelta(minutes=15)
_MOST_SKIPPED = 100
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RunToken:
    """A run's token; the secret never shows in a repr."""

    uid: str
    secret: str = field(repr=False)


class Refused(Exception):
    """The team's limit does not allow this reservation now; the message says so for people."""


class Quota:
    """The quota service, seen from here. Methods raise `Unavailable` while it is away."""

    def __init__(self, channel: aio.Channel) -> None:
        self._quota = quota_pb2_grpc.QuotaServiceStub(channel)
        self._identity = quota_pb2_grpc.IdentityServiceStub(channel)

    async def limit(self, team: str) -> Limit | None:
        """The team's limits; None where there is no such team."""
        try:
            found = await _answer(self._quota.GetTeam(quota_pb2.GetTeamRequest(name=f"teams/{team}")))
        except NotFound:
            return None
        limits = found.limits
        return Limit(
            gpus=limits.gpus if limits.HasField("gpus") else None,
            cpu_milli=limits.cpu_milli if limits.HasField("cpu_milli") else None,
            jobs=limits.jobs if limits.HasField("jobs") else None,
        )

    async def reserve(self, job: Job) -> int:
        """Holds what the job needs; returns the number of the admission that it is held for.

        The same until the job is admitted under that number. Raises Refused.
        """
        need = job.spec.need
        amounts = team_pb2.Amounts(gpus=need.gpus, cpu_milli=need.cpu_milli, jobs=1)
        for admission in range(job.admissions + 1, job.admissions + 1 + _MOST_SKIPPED):
            request = quota_pb2.ReserveQuotaRequest(
                parent=f"teams/{job.team}",
                reservation_id=f"{job.uid}-{admission}",
                job=f"teams/{job.team}/jobs/{job.uid}",
                amounts=amounts,
            )
            try:
                await _answer(self._quota.ReserveQuota(request))
            except ResourceExhausted as error:
                raise Refused(error.message) from None
            except FailedPrecondition as error:
                if error.reason is not Reason.RESERVATION_ENDED:
                    raise
                # An admission that never came about; the quota service has cleared it away since.
                continue
            return admission
        raise Refused(f"{_MOST_SKIPPED} reservations of this job ended before it was admitted")

    async def release(self, job: Job, *, admission: int) -> None:
        """Gives back what was held for an admission that will not come about."""
        name = f"teams/{job.team}/reservations/{job.uid}-{admission}"
        try:
            await _answer(self._quota.ReleaseReservation(quota_pb2.ReleaseReservationRequest(name=name)))
        except NotFound:
            return

    async def mint(self, *, team: str, run_uid: str, attempt_uid: str, request_id: str) -> RunToken:
        """A token with which an attempt may publish for its run. The same request_id replaces the secret."""
        made = await _answer(
            self._identity.CreateToken(
                quota_pb2.CreateTokenRequest(
                    display_name=f"attempt {attempt_uid}",
                    scope=token_pb2.SCOPE_RUN,
                    ttl=_life(),
                    team=team,
                    run_uid=run_uid,
                    attempt_uid=attempt_uid,
                    request_id=request_id,
                )
            )
        )
        return RunToken(made.token.uid, made.secret)

    async def renew(self, token_uid: str) -> None:
        """Lets a run token live on."""
        await _answer(
            self._identity.RenewToken(quota_pb2.RenewTokenRequest(name=f"tokens/{token_uid}", ttl=_life()))
        )

    async def revoke(self, token_uid: str) -> None:
        """Ends a run token; one that is not known any more is ended as well."""
        try:
            await _answer(
                self._identity.RevokeToken(quota_pb2.RevokeTokenRequest(name=f"tokens/{token_uid}"))
            )
        except NotFound:
            return


async def _answer(call: Awaitable[T]) -> T:
    try:
        return await call
    except aio.AioRpcError as error:
        raise from_rpc_error(error) from None


def _life() -> Duration:
    life = Duration()
    life.FromTimedelta(TOKEN_LIFE)
    return life

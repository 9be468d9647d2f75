"""What the scheduler asks of the quota service: limits, reservations, run tokens."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TypeVar

from google.protobuf.duration_pb2 import Duration
from grpc import aio

from cairn.quota.v1 import (
    allocation_pb2,
    allocation_pb2_grpc,
    plan_pb2,
    quota_pb2,
    quota_pb2_grpc,
    token_pb2,
    tree_pb2,
)
from cairn.quota.v1.plan_pb2 import Verdict
from cairn_common.errors import FailedPrecondition, NotFound, Reason, from_rpc_error
from cairn_scheduler import tree
from cairn_scheduler.lease import Fenced
from cairn_scheduler.tree import Tree

TOKEN_LIFE = timedelta(minutes=15)
_MOST_SKIPPED = 100
_MOST_ITEMS = 10_000
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RunToken:
    """A run's token; the secret never shows in a repr."""

    uid: str
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Asked:
    """What one admission of a job is to hold: amounts by resource, in thousandths."""

    uid: str
    team: str
    admission: int
    node: str
    flavor: str
    amounts: Mapping[str, int]
    user: str = ""
    project: str = ""
    # Seconds.
    max_runtime: float | None = None
    priority_class: str = ""

    @property
    def name(self) -> str:
        """Of the reservation."""
        return f"teams/{self.team}/reservations/{self.uid}-{self.admission}"


@dataclass(frozen=True, slots=True)
class Rejected:
    """The quota service does not grant it now; why, in words."""

    reason: str


class Stale(Exception):
    """The quota tree was changed: plan again."""


class Quota:
    """The quota service, seen from here. Methods raise `Unavailable` while it is away."""

    def __init__(self, channel: aio.Channel) -> None:
        self._quota = quota_pb2_grpc.QuotaServiceStub(channel)
        self._allocation = allocation_pb2_grpc.AllocationServiceStub(channel)
        self._identity = quota_pb2_grpc.IdentityServiceStub(channel)

    async def tree(self) -> Tree:
        """The quota tree as it rules now, with what its budgets have left."""
        return tree.read(await self._ruling())

    async def supposed(self, message: tree_pb2.QuotaTree) -> Tree:
        """Another tree, as if it ruled from now on."""
        return tree.supposed(message, ruling=await self._ruling())

    async def apply(self, asked: Sequence[Asked], *, version: int, epoch: int) -> dict[str, Asked | Rejected]:
        """Holds what jobs ask for, each for itself, by job uid: what is held (perhaps under a later
        admission's number), or why not.

        Raises Stale where the tree is not that version any more, and Fenced where another scheduler decides.
        """
        answers: dict[str, Asked | Rejected] = {}
        left = list(asked)
        for _ in range(_MOST_SKIPPED):
            if not left:
                return answers
            verdicts = await self._apply(left[:_MOST_ITEMS], version=version, epoch=epoch)
            again = left[_MOST_ITEMS:]
            for one, verdict in zip(left, verdicts, strict=False):
                if verdict.code == Verdict.STALE:
                    raise Stale
                if verdict.code == Verdict.USED_UP:
                    # An admission that never came about; the quota service has cleared it away since.
                    again.append(replace(one, admission=one.admission + 1))
                elif verdict.code == Verdict.HELD:
                    answers[one.uid] = one
                else:
                    answers[one.uid] = Rejected(
                        f"{_REASONS.get(verdict.code, 'QuotaFull')}: {verdict.message}"
                    )
            left = again
        return answers

    async def release(self, asked: Asked) -> None:
        """Gives back what was held for an admission that will not come about."""
        request = quota_pb2.ReleaseReservationRequest(name=asked.name)
        try:
            await _answer(self._quota.ReleaseReservation(request))
        except NotFound:
            return

    async def _ruling(self) -> tree_pb2.QuotaTree:
        return await _answer(self._allocation.GetTree(allocation_pb2.GetTreeRequest(use=True)))

    async def _apply(self, asked: Sequence[Asked], *, version: int, epoch: int) -> Sequence[plan_pb2.Verdict]:
        request = allocation_pb2.ApplyPlanRequest(
            tree_version=version, epoch=epoch, holds=[_hold(one) for one in asked]
        )
        try:
            return (await _answer(self._allocation.ApplyPlan(request))).verdicts
        except FailedPrecondition as error:
            if error.reason is Reason.EPOCH_OLD:
                raise Fenced from None
            raise

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


def _hold(asked: Asked) -> plan_pb2.Hold:
    hold = plan_pb2.Hold(
        name=asked.name,
        node=asked.node,
        flavor=asked.flavor,
        amounts=asked.amounts,
        user=asked.user,
        project=asked.project,
        priority_class=asked.priority_class,
    )
    if asked.max_runtime is not None:
        hold.max_runtime.FromTimedelta(timedelta(seconds=asked.max_runtime))
    return hold


_REASONS = {
    Verdict.BUDGET_EXHAUSTED: "BudgetExhausted",
    Verdict.BUDGET_UNSAFE: "BudgetUnsafe",
    Verdict.STOPPED: "Held",
    Verdict.UNKNOWN: "NotEvaluated",
    Verdict.INVALID: "NotEvaluated",
}


async def _answer(call: Awaitable[T]) -> T:
    try:
        return await call
    except aio.AioRpcError as error:
        raise from_rpc_error(error) from None


def _life() -> Duration:
    life = Duration()
    life.FromTimedelta(TOKEN_LIFE)
    return life

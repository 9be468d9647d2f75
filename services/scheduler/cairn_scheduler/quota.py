"""What the scheduler asks of the quota service: limits, reservations, run tokens."""

from __future__ import annotations

import time
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
    secret_service_pb2,
    secret_service_pb2_grpc,
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
MOST_TOKENS = 500
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RunToken:
    """A run's token; the secret never shows in a repr."""

    uid: str
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Minting:
    """A run token that is wanted; the same request_id again replaces its secret."""

    team: str
    run_uid: str
    attempt_uid: str
    request_id: str


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

    def __init__(self, channel: aio.Channel, *, remember: float = 0.0) -> None:
        """A tree without budgets is remembered for so many seconds, or until `forget_tree`."""
        self._quota = quota_pb2_grpc.QuotaServiceStub(channel)
        self._allocation = allocation_pb2_grpc.AllocationServiceStub(channel)
        self._identity = quota_pb2_grpc.IdentityServiceStub(channel)
        self._secrets = secret_service_pb2_grpc.SecretServiceStub(channel)
        # Reservations whose jobs have given up their places since the last plan.
        self._ends: dict[str, None] = {}
        self._budgets = True
        self._remember = remember
        self._tree: tuple[float, Tree] | None = None
        self._forgettings = 0

    async def tree(self) -> Tree:
        """The quota tree as it rules now, with what its budgets have left."""
        now = time.monotonic()
        if self._tree is not None and now < self._tree[0]:
            return self._tree[1]
        before = self._forgettings
        read = tree.read(await self._ruling())
        self._budgets = bool(read.budgets)
        # Forgotten while it was on its way, it is not remembered.
        if not self._budgets and before == self._forgettings:
            self._tree = now + self._remember, read
        return read

    def forget_tree(self) -> None:
        """It may be another one by now."""
        self._forgettings += 1
        self._tree = None

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
                    self.forget_tree()
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

    def let_go(self, team: str, uid: str, admission: int) -> None:
        """A job's place is free: what it held ends with the next plan, which may need it.

        A hint: quota hears of it by the job's fact in any case, which is the only way where there are
        budgets: what it used is to be charged before what it held of them is free.
        """
        if self._budgets:
            return
        if len(self._ends) >= _MOST_ITEMS:
            self._ends.clear()
        self._ends[f"teams/{team}/reservations/{uid}-{admission}"] = None

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
        ends = list(self._ends)[: _MOST_ITEMS - len(asked)]
        request = allocation_pb2.ApplyPlanRequest(
            tree_version=version, epoch=epoch, ends=ends, holds=[_hold(one) for one in asked]
        )
        try:
            verdicts = (await _answer(self._allocation.ApplyPlan(request))).verdicts
            for name in ends:
                self._ends.pop(name, None)
            return verdicts[len(ends) :]
        except FailedPrecondition as error:
            if error.reason is Reason.EPOCH_OLD:
                raise Fenced from None
            raise

    async def mint(self, wanted: Minting) -> RunToken:
        """A token with which an attempt may publish for its run. The same request_id replaces the secret."""
        made = await _answer(self._identity.CreateToken(_token_request(wanted)))
        return RunToken(made.token.uid, made.secret)

    async def mint_many(self, wanted: Sequence[Minting]) -> list[RunToken]:
        """One for each, in this order. Where one is refused this raises, and some may have been made."""
        made: list[RunToken] = []
        for at in range(0, len(wanted), MOST_TOKENS):
            requests = [_token_request(one) for one in wanted[at : at + MOST_TOKENS]]
            answer = await _answer(
                self._identity.BatchCreateTokens(quota_pb2.BatchCreateTokensRequest(requests=requests))
            )
            made += [RunToken(one.token.uid, one.secret) for one in answer.tokens]
        return made

    async def secrets(
        self, names: Sequence[str], *, team: str, user: str, job: str = "", attempt_uid: str = ""
    ) -> dict[str, str]:
        """Values of those that the user or the team has kept there. `job`, `attempt_uid`: who gets them,
        which is noted; none: they are looked at."""
        request = secret_service_pb2.UseSecretsRequest(
            parent=f"teams/{team}", user=user, variables=names, job=job, attempt_uid=attempt_uid
        )
        return dict((await _answer(self._secrets.UseSecrets(request))).values)

    async def renew(self, token_uid: str) -> None:
        """Lets a run token live on."""
        await _answer(
            self._identity.RenewToken(quota_pb2.RenewTokenRequest(name=f"tokens/{token_uid}", ttl=_life()))
        )

    async def revoke(self, token_uids: Sequence[str]) -> None:
        """Ends run tokens; one that is not known any more is ended as well."""
        for at in range(0, len(token_uids), MOST_TOKENS):
            names = [f"tokens/{uid}" for uid in token_uids[at : at + MOST_TOKENS]]
            await _answer(self._identity.BatchRevokeTokens(quota_pb2.BatchRevokeTokensRequest(names=names)))


def _token_request(wanted: Minting) -> quota_pb2.CreateTokenRequest:
    return quota_pb2.CreateTokenRequest(
        display_name=f"attempt {wanted.attempt_uid}",
        scope=token_pb2.SCOPE_RUN,
        ttl=_life(),
        team=wanted.team,
        run_uid=wanted.run_uid,
        attempt_uid=wanted.attempt_uid,
        request_id=wanted.request_id,
    )


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

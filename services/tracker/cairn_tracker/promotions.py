"""Versions under an alias such as `production`: moved at once, or once a second person has consented."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any, Final

from cairn.tracker.v1 import events_pb2, promotion_pb2
from cairn_common.clock import Clock
from cairn_common.db import Database
from cairn_common.errors import FailedPrecondition, InvalidArgument, NotFound, PermissionDenied, Reason
from cairn_common.ids import new_uid
from cairn_tracker import manifest, wire
from cairn_tracker.artifacts import held_still, move_alias
from cairn_tracker.batch import RunKey
from cairn_tracker.noted import note
from cairn_tracker.store import artifacts as rows
from cairn_tracker.store import promotions as store
from cairn_tracker.store.artifacts import Version
from cairn_tracker.store.promotions import Promotion, PromotionState
from cairn_tracker.store.runs import Reads

_LONGEST_NOTE: Final = 500
_MOST_ALIASES: Final = 50


class Promotions:
    """What can be done about promotions, for callers whose rights were checked."""

    def __init__(self, *, db: Database, clock: Clock) -> None:
        self._db = db
        self._clock = clock

    async def ask(self, version: Version, alias: str, *, actor: str, note: str, approval: bool) -> Promotion:
        """Moves an alias to a version, or with `approval` asks for that. Raises InvalidArgument
        (ALIAS_INVALID), FailedPrecondition where the alias names it already."""
        manifest.check_moved_alias(alias)
        _check_note(note)
        async with held_still(self._db, version) as (conn, found):
            if alias in found.aliases:
                raise FailedPrecondition(f"{found.artifact}:v{found.number} is {alias} already")
            known = await store.pending(conn, found, alias) if approval else None
            if known is not None:
                return known
            now, uid = self._clock.now(), new_uid()
            await store.add(
                conn, found, alias, uid=uid, requester=actor, note=note, done=not approval, now=now
            )
            if not approval:
                await move_alias(conn, found, alias, actor=actor, clock=self._clock)
            made = await store.find(conn, found.team, uid)
            assert made is not None, "it was written in this transaction"
            await _tell(conn, made, actor=actor, now=now)
        return made

    async def approve(self, team: str, uid: str, *, decider: str, note: str) -> Promotion:
        """Moves the alias of a wish that waits, in one transaction with the decision. Raises NotFound,
        FailedPrecondition (STATE_INVALID), PermissionDenied (APPROVER_SAME)."""
        _check_note(note)
        wish = await self.get(team, uid)
        if wish.requester == decider:
            raise PermissionDenied(
                f"{decider} asked for it; another admin of team {team} approves it",
                reason=Reason.APPROVER_SAME,
            )
        async with held_still(self._db, await self._version(wish)) as (conn, found):
            await _still_pending(conn, wish)
            now = self._clock.now()
            await store.decide(conn, wish, PromotionState.APPROVED, decider=decider, decision=note, now=now)
            await move_alias(conn, found, wish.alias, actor=wish.requester, clock=self._clock)
            await store.note_approver(conn, found, wish.alias, decider)
            return await _decided(conn, wish, actor=decider, now=now)

    async def reject(self, team: str, uid: str, *, decider: str, note: str) -> Promotion:
        """Ends a wish that waits. Raises NotFound, FailedPrecondition (STATE_INVALID)."""
        _check_note(note)
        wish = await self.get(team, uid)
        async with self._db.transaction() as conn:
            await _still_pending(conn, wish)
            now = self._clock.now()
            await store.decide(conn, wish, PromotionState.REJECTED, decider=decider, decision=note, now=now)
            return await _decided(conn, wish, actor=decider, now=now)

    async def get(self, team: str, uid: str) -> Promotion:
        """Raises NotFound (PROMOTION_NOT_FOUND)."""
        found = await store.find(self._db, team, uid)
        if found is None:
            raise NotFound(f"there is no promotion {uid} in team {team}", reason=Reason.PROMOTION_NOT_FOUND)
        return found

    async def rule(self, team: str, aliases: Sequence[str]) -> None:
        """Sets which aliases need approval. Raises InvalidArgument."""
        if len(aliases) > _MOST_ALIASES:
            raise InvalidArgument(f"approved_aliases: at most {_MOST_ALIASES} can be given")
        for alias in aliases:
            manifest.check_moved_alias(alias)
        async with self._db.transaction() as conn:
            await store.set_approved_aliases(conn, team, aliases)
            where, name = RunKey(team, "rules"), f"teams/{team}/promotionRules"
            what = ", ".join(sorted(set(aliases)))
            await note(conn, "rules_updated", where, name, now=self._clock.now(), what=what)

    async def _version(self, wish: Promotion) -> Version:
        found = await rows.find(self._db, wish.team, wish.artifact, wish.number, entries=False)
        if found is None:
            raise FailedPrecondition(
                f"{wish.artifact}:v{wish.number} was deleted since; reject the promotion",
                reason=Reason.STATE_INVALID,
            )
        return found


async def refuse_without_approval(db: Reads, team: str, aliases: Collection[str]) -> None:
    """Raises FailedPrecondition (APPROVAL_REQUIRED) where one of the aliases is moved by consent alone."""
    needed = set(aliases) & set(await store.approved_aliases(db, team)) if aliases else set()
    if needed:
        alias = min(needed)
        raise FailedPrecondition(
            f"alias {alias} of team {team} moves with a second person's consent: ask for it "
            f"(PromoteVersion, `cairn models promote NAME:VERSION --to {alias}`)",
            reason=Reason.APPROVAL_REQUIRED,
            alias=alias,
        )


async def _still_pending(conn: Any, wish: Promotion) -> None:
    """Locks a wish. Raises FailedPrecondition where somebody decided it before."""
    now = await store.find(conn, wish.team, wish.uid, lock=True)
    if now is None or now.state is not PromotionState.PENDING:
        told = "gone" if now is None else f"{now.state.name} by {now.decider}"
        raise FailedPrecondition(f"promotion {wish.uid} is {told}", reason=Reason.STATE_INVALID)


async def _decided(conn: Any, wish: Promotion, *, actor: str, now: datetime) -> Promotion:
    decided = await store.find(conn, wish.team, wish.uid)
    assert decided is not None, "it is locked in this transaction"
    await _tell(conn, decided, actor=actor, now=now)
    return decided


async def _tell(conn: Any, promotion: Promotion, *, actor: str, now: datetime) -> None:
    told = message(promotion)
    fact = {
        PromotionState.PENDING: events_pb2.TrackerEvent(
            promotion_requested=events_pb2.PromotionRequested(promotion=told)
        ),
        PromotionState.APPROVED: events_pb2.TrackerEvent(
            promotion_approved=events_pb2.PromotionApproved(promotion=told)
        ),
        PromotionState.REJECTED: events_pb2.TrackerEvent(
            promotion_rejected=events_pb2.PromotionRejected(promotion=told)
        ),
    }[promotion.state]
    key = RunKey(promotion.team, promotion.uid)
    await wire.tell(conn, fact, key, "promotion", now, actor=actor)


def message(value: Promotion) -> promotion_pb2.Promotion:
    """A promotion as the API has it."""
    return promotion_pb2.Promotion(
        name=f"teams/{value.team}/promotions/{value.uid}",
        uid=value.uid,
        state=promotion_pb2.Promotion.State.ValueType(value.state),
        version=value.version,
        alias=value.alias,
        requester=value.requester,
        decider=value.decider,
        note=value.note,
        decision=value.decision,
        create_time=wire.stamp(value.create_time),
        decide_time=wire.stamp(value.decide_time),
    )


def _check_note(note: str) -> None:
    if len(note) > _LONGEST_NOTE or "\x00" in note:
        raise InvalidArgument(f"note: at most {_LONGEST_NOTE} characters, without NUL", field="note")

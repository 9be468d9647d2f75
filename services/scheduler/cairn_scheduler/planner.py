"""One decision, carried out: a snapshot, the engine's plan, quota's verdicts, and one transaction.

The quota service has the last word: what it rejects is planned again without it. What it granted and is not
written down in the end is given back. Reasons are remarks; they are written at most twice a second.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import structlog

from cairn_common.cancellation import heed_cancellation
from cairn_common.clock import Clock
from cairn_common.db import Database
from cairn_scheduler import (
    circuits,
    dependency_store,
    model,
    queue_store,
    snapshot,
    spending,
    telling,
    yielding,
)
from cairn_scheduler.cluster import Cluster
from cairn_scheduler.desk import Desk
from cairn_scheduler.engine import world
from cairn_scheduler.engine.world import Plan, Preemption, Why
from cairn_scheduler.facts import Event
from cairn_scheduler.lease import Lead
from cairn_scheduler.model import Hold, IllegalStep, Job, State
from cairn_scheduler.places import Place
from cairn_scheduler.queue_store import Changed
from cairn_scheduler.quota import Asked, Quota, Rejected, Stale
from cairn_scheduler.recent import Recent
from cairn_scheduler.snapshot import Entry
from cairn_scheduler.steps import Step
from cairn_scheduler.tree import Tree
from cairn_scheduler.ways import Ways

log = structlog.get_logger(__name__)

REASON_SECONDS = 0.5
_ROUNDS = 20


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a decision leaves to be done: jobs to launch, in their order, and when to look again (None: when
    something changes)."""

    due: tuple[str, ...]
    wake_at: datetime | None
    # Victims were told to end, so that there is something to tend; or reasons wait to be written.
    again: bool = False
    # Seconds in which nothing else could be done.
    thought: float = 0.0


class Planner:
    """Keeps the engine's reservations and claims, and the reasons that are not written yet."""

    def __init__(
        self,
        *,
        db: Database,
        ways: Ways,
        lead: Lead,
        quota: Quota,
        clusters: Mapping[str, Cluster],
        clock: Clock,
        recent: Recent,
    ) -> None:
        self._db = db
        self._ways = ways
        self._lead = lead
        self._quota = quota
        self._clusters = clusters
        self._clock = clock
        self._recent = recent
        self._tree: Tree | None = None
        self._holds: tuple[world.Hold, ...] = ()
        self._claims: tuple[str, ...] = ()
        self._reader = queue_store.Reader(db)
        self._desk = Desk()
        # As they were read last: who waits, who has a place, and who of both is tried again.
        self._waiting: dict[str, Entry] = {}
        self._placed: dict[str, Entry] = {}
        self._retried: dict[str, Entry] = {}
        # Reasons that are new, and those that somebody other than the engine had.
        self._news: dict[str, world.Reason] = {}
        self._others: set[str] = set()
        self._untold: dict[str, str] = {}
        self._told_at = 0.0
        self._thought = 0.0

    async def decide(self) -> Outcome:
        """Raises Unavailable where the database or the quota service is away, and Fenced."""
        now = self._clock.now()
        self._thought = 0.0
        tried = await self._read(now)
        kept = await self._ways.look(self._waiting.values(), tried=tried, now=now)
        plan, admitted, rejected = await self._settle(kept, now)
        rejected |= kept
        victims = await self._preempt(plan.preemptions, now)
        self._holds, self._claims = plan.holds, plan.claims
        later = await self._remember(plan, rejected, admitted)
        stopped, freed = await self._pay(now)
        due = [entry for entry in self._placed.values() if _due(entry, now) and entry.uid not in stopped]
        return Outcome(
            due=(*(entry.uid for entry in sorted(due, key=_launch_order)), *admitted),
            wake_at=_wake_at(self._retried.values(), plan, self._ways.wake_at, now),
            again=victims or later or freed,
            thought=self._thought,
        )

    @property
    def idle(self) -> bool:
        """Whether, as it was read last, no job has a place."""
        return not self._placed

    async def _read(self, now: datetime) -> bool:
        """Brings what is known of the jobs to what is written, and lets those go that waited for others;
        whether any was tried at a place with circuits."""
        while True:
            changed = await self._reader.read(tried_after=now - circuits.MEMORY)
            self._take_in(changed)
            if not changed.dependent or not await dependency_store.settle(self._db, self._lead, now=now):
                return changed.tried
            heed_cancellation()

    def _take_in(self, changed: Changed) -> None:
        self._desk.tell(changed.entries, changed.gone)
        for uid in (*changed.gone, *(entry.uid for entry in changed.entries)):
            for kind in (self._waiting, self._placed, self._retried):
                kind.pop(uid, None)
        for entry in changed.entries:
            (self._waiting if entry.state is State.PENDING else self._placed)[entry.uid] = entry
            if entry.retry_time is not None:
                self._retried[entry.uid] = entry
            self._recent.compare(entry.uid, entry.state)
        self._recent.forget(changed.gone)

    async def _settle(self, kept: Mapping[str, str], now: datetime) -> tuple[Plan, list[str], dict[str, str]]:
        """The plan that quota agreed to, the jobs that are admitted by it, and why others were rejected."""
        if not self._waiting and not self._placed:
            return Plan(), [], {}
        # Also where nothing waits: a budget may be spent, a node be drained.
        self._tree = await self._quota.tree()
        places = [Place(name, cluster.capacity()) for name, cluster in sorted(self._clusters.items())]
        by_uid = self._waiting
        granted: dict[str, Asked] = {}
        rejected: dict[str, str] = {}
        for _ in range(_ROUNDS):
            began = time.monotonic()
            plan = self._desk.decide(
                without=kept.keys() | rejected.keys(),
                tree=self._tree,
                places=places,
                holds=self._holds,
                claims=self._claims,
                now=now,
            )
            self._thought += time.monotonic() - began
            self._news |= plan.news
            wanted = [one for one in plan.admissions if one.uid not in granted]
            if not wanted:
                break
            asked = [self._asked(by_uid[one.uid], one, self._tree) for one in wanted]
            try:
                answers = await self._quota.apply(asked, version=self._tree.version, epoch=self._lead.epoch)
            except Stale:
                self._tree = await self._quota.tree()
                continue
            refused = {uid: one.reason for uid, one in answers.items() if isinstance(one, Rejected)}
            granted |= {uid: one for uid, one in answers.items() if not isinstance(one, Rejected)}
            if not refused:
                # Deciding again may take longer than all else, and would make the same plan.
                break
            rejected |= refused
        else:
            log.warning("plan.unsettled", granted=len(granted), rejected=len(rejected))
        admitted = await self._admit(plan, granted, now)
        return plan, admitted, rejected

    def _asked(self, entry: Entry, admission: world.Admission, tree: Tree) -> Asked:
        return Asked(
            uid=entry.uid,
            team=entry.team,
            admission=entry.admissions + 1,
            node=snapshot.seat(entry, tree),
            flavor=snapshot.quota_flavor(admission.flavor),
            amounts=snapshot.amounts(entry.resources.times(entry.num_nodes)),
            user=entry.creator,
            project=entry.project,
            max_runtime=entry.max_runtime,
            priority_class=entry.priority_class,
        )

    async def _admit(self, plan: Plan, granted: Mapping[str, Asked], now: datetime) -> list[str]:
        """Writes the admissions down in one transaction, and gives back what was granted for others."""
        if not granted:
            return []
        chosen = {one.uid: one for one in plan.admissions if one.uid in granted}
        jobs = await self._recent.by_uid(list(chosen))
        taken: list[Step] = []
        for uid, one in chosen.items():
            job = jobs.get(uid)
            if job is None or job.state is not State.PENDING:
                self._recent.forget([uid])
                continue
            new = model.admit(job, now, admission=granted[uid].admission, pool=one.pool)
            taken.append((job, replace(new, flavor=granted[uid].flavor, admit_time=now), Event.ADMITTED))
        done = await self._recent.save_alone(self._lead, taken)
        log.info("plan.admitted", jobs=len(done))
        for uid, asked in granted.items():
            if uid not in done:
                await self._quota.release(asked)
        return [uid for uid in chosen if uid in done]

    async def _preempt(self, preemptions: Sequence[Preemption], now: datetime) -> bool:
        """Takes the places that the plan takes; whether any was."""
        if not preemptions:
            return False
        jobs = await self._recent.by_uid([one.uid for one in preemptions])
        taken: list[Step] = []
        for one in preemptions:
            job = jobs.get(one.uid)
            if job is None or job.state is State.PREEMPTING:
                self._recent.forget([one.uid])
                continue
            try:
                new = self._taken(job, one, now)
            except IllegalStep:
                self._recent.forget([one.uid])
                continue
            if new is not job:
                taken.append((job, new, _event(new)))
        done = await self._recent.save_alone(self._lead, taken)
        log.info("plan.preempted", jobs=len(done))
        return bool(done)

    def _taken(self, job: Job, one: Preemption, now: datetime) -> Job:
        """Raises IllegalStep."""
        if one.why is not Why.BUDGET:
            return yielding.preempt(job, now, why=_why(one), by=one.by)
        budget = self._tree and spending.stops(self._placed[job.uid], self._tree)
        return yielding.hold(job, now, kind=Hold.BUDGET, why=spending.told(budget) if budget else "")

    async def _pay(self, now: datetime) -> tuple[set[str], bool]:
        """Holds what a spent budget lets not go on, and lets go what it held before; the uids of the former,
        and whether there were any of the latter."""
        tree, entries = self._tree, self._placed.values()
        if tree is None:
            return set(), False
        spent = {
            one.uid: budget for one in entries if _due(one, now) and (budget := spending.holds(one, tree))
        }
        free = {one.uid for one in entries if one.state is State.HELD and spending.stops(one, tree) is None}
        if not spent and not free:
            return set(), False
        taken: list[Step] = []
        for uid, job in (await self._recent.by_uid([*spent, *free])).items():
            if uid in spent and job.state is State.RECOVERING:
                why = spending.told(spent[uid])
                taken.append((job, yielding.hold(job, now, kind=Hold.BUDGET, why=why), Event.HELD))
            elif job.state is State.HELD and job.hold is Hold.BUDGET:
                taken.append((job, yielding.release(job, now), Event.REQUEUED))
        await self._recent.save_alone(self._lead, taken)
        return set(spent), bool(free)

    async def _remember(self, plan: Plan, rejected: Mapping[str, str], admitted: Sequence[str]) -> bool:
        """Writes down why jobs wait; whether some of it waits for its time."""
        for uid in self._others - rejected.keys():
            if uid in plan.reasons:
                self._news.setdefault(uid, plan.reasons[uid])
        self._others = set(rejected)
        told = {uid: telling.sentence(reason) for uid, reason in self._news.items()}
        self._news = {}
        for uid in self._desk.strangers:
            if uid in self._waiting:
                team = self._waiting[uid].team
                told[uid] = f"NotEvaluated: the quota service does not know team {team}"
        told = {**self._untold, **told, **rejected}
        gone = set(admitted)
        self._untold = {
            uid: text
            for uid, text in told.items()
            if uid not in gone and uid in self._waiting and self._waiting[uid].reason != text
        }
        wait = self._told_at + REASON_SECONDS > time.monotonic()
        if (not self._untold and not plan.overtaken) or wait:
            return bool(self._untold)
        self._told_at = time.monotonic()
        async with self._lead.transaction() as conn:
            await queue_store.remember(conn, reasons=self._untold, overtaken=plan.overtaken)
        self._untold = {}
        return False


def _due(entry: Entry, now: datetime) -> bool:
    """Its next attempt is to be launched."""
    if entry.state is State.RECOVERING:
        return entry.retry_time is not None and entry.retry_time <= now
    return entry.state is State.ADMITTED


def _launch_order(entry: Entry) -> tuple[bool, datetime, datetime, str]:
    time = entry.retry_time or entry.create_time
    return (entry.retry_time is None, time, entry.create_time, entry.uid)


def _wake_at(entries: Iterable[Entry], plan: Plan, trial: datetime | None, now: datetime) -> datetime | None:
    times = [entry.retry_time for entry in entries if entry.retry_time and entry.retry_time > now]
    if trial is not None and trial > now:
        times.append(trial)
    if plan.wake_at is not None:
        times.append(datetime.fromtimestamp(plan.wake_at / 1000, UTC))
    return min(times, default=None)


def _why(one: Preemption) -> str:
    told = _WHYS.get(one.why, str(one.why))
    return f"{told}: job {one.by}" if one.by else told


_WHYS = {
    Why.WITHIN: "for a job of its own node that goes first",
    Why.RECLAIM: "for a node that takes back what it had lent",
    Why.FAIR: "for a node with a smaller share",
    Why.RECLAIM_BORROWING: "for a job of higher priority",
    Why.BUDGET: "its budget is spent",
    Why.DRAIN: "its node is drained",
}


def _event(job: Job) -> Event:
    if job.state is State.HELD:
        return Event.HELD
    return Event.PREEMPTING if job.state is State.PREEMPTING else Event.PREEMPTED

"""`decide(snapshot) -> Plan`, and the engine that keeps its indexes from one decision to the next.

A fresh engine and one that was told of every change make the same plan: what an engine remembers are failures
whose causes did not change. Nothing here waits, asks or looks at a clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from cairn_scheduler.engine import gates
from cairn_scheduler.engine.awake import awake
from cairn_scheduler.engine.bars import Bars
from cairn_scheduler.engine.order import ALWAYS, Line, Queue
from cairn_scheduler.engine.passes import Pass
from cairn_scheduler.engine.state import State
from cairn_scheduler.engine.world import Admitted, Budget, Code, JobRequest, Plan, Reason, Snapshot


@dataclass(frozen=True, slots=True)
class Gone:
    """A job ended, or was withdrawn."""

    uid: str


Change = JobRequest | Admitted | Gone


def decide(snapshot: Snapshot) -> Plan:
    """One plan for one snapshot. Raises BadTree where the nodes are no forest."""
    return Engine(snapshot).decide(snapshot.now)


class Engine:
    """All that is known, indexed. `apply` what happened, then `decide`.

    A job that is charged to a node which does not exist is left out, and has the reason NotEvaluated.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        self.frame = replace(snapshot, pending=(), admitted=())
        self.state = State(snapshot.nodes, snapshot.flavors, snapshot.pools)
        self.queue = Queue(self.state)
        self.classes = {klass.name: klass for klass in snapshot.classes}
        self.pending: dict[str, JobRequest] = {}
        self.admitted: dict[str, Admitted] = {}
        # Jobs that are not in the queue, because something keeps them that capacity cannot cure.
        self.aside: dict[str, JobRequest] = {}
        # Victims in their grace. While there are any, `actual` holds them, too, and `state` does not.
        self.stopping: dict[str, Admitted] = {}
        self._full: State | None = None
        # Whether a job came, went, or came to where others may take its place, since the last decision.
        self.stirred = True
        self.told: dict[str, Reason] = {}
        # Nodes with jobs that were not told anything yet, or that were promised a place.
        self._untold: set[str] = set()
        # Who got a place in the last plan, now or later, and is not seen in it yet.
        self._expected: dict[str, Admitted] = {}
        self._promised: dict[str, Admitted] = {}
        self.apply((*snapshot.admitted, *snapshot.pending))

    def apply(self, changes: Iterable[Change]) -> None:
        """Takes in what happened, in order: a request is pending now, an admitted one holds its place."""
        for change in changes:
            if isinstance(change, Gone):
                self._forget(change.uid)
            elif isinstance(change, Admitted):
                if self._keeps(change):
                    continue
                self._forget(change.request.uid)
                self._hold(change)
            else:
                self._forget(change.uid)
                self.pending[change.uid] = change
                self.aside[change.uid] = change
            self.stirred = True

    def edit(self, **fields: Any) -> None:
        """Other nodes, pools, budgets, circuits ...: fields of the snapshot other than its jobs."""
        if fields.keys() & {"nodes", "flavors", "pools", "classes"}:
            told = self.told
            self.__init__(replace(self.snapshot(self.frame.now), **fields))  # type: ignore[misc]
            self.told = told
            return
        spent = _doubtful(self.frame.budgets, fields.get("budgets", self.frame.budgets))
        self.frame = replace(self.frame, **fields)
        if spent or fields.keys() - {"now", "budgets", "holds", "claims", "use", "version"}:
            self.queue.doubt()

    def snapshot(self, now: int) -> Snapshot:
        """All of it as a value, in the order of uids."""
        pending = tuple(self.pending[uid] for uid in sorted(self.pending))
        admitted = tuple(self.admitted[uid] for uid in sorted(self.admitted))
        return replace(self.frame, now=now, pending=pending, admitted=admitted)

    def decide(self, now: int) -> Plan:
        """The plan at this time. The engine itself stays as it is until the plan's effects are applied.

        The plan's `reasons` are the engine's own, and go on with it.
        """
        self.stirred = False
        self._disappointed()
        self._wake(now)
        bars = Bars()
        seen = awake(self, now)
        while True:
            one = Pass(self, now, bars, seen)
            plan = one.run()
            if bars.learn(one.unstable):
                seen.forget(one.tainted)
            elif not seen.stir(self, now, plan.holds):
                break
        self._expected = one.expected
        self._promised = {uid: job for uid, job in one.fresh.items() if uid not in one.expected}
        return replace(plan, news=self._tell(one), reasons=MappingProxyType(self.told))

    def line(self, uid: str) -> Line | None:
        """The line that a pending job waits in."""
        return self.queue.line_of.get(uid)

    def _tell(self, one: Pass) -> dict[str, Reason]:
        """Notes why jobs wait, of those for which it can be another reason; returns what is new of it."""
        told: dict[str, Reason] = {}
        for name in one.awake.names | self._untold:
            for line in self.queue.lines[name].values():
                reason, whom = line.tell()
                told |= dict.fromkeys(whom, reason)
        waiting = one.waiting_for()
        for uid in one.fresh:
            told.pop(uid, None)
            if (line_of := self.line(uid)) is not None:
                line_of.untold.add(uid)
            if uid in self.pending and uid not in one.expected:
                told[uid] = waiting
            else:
                self.told.pop(uid, None)
        for uid, request in self.aside.items():
            told[uid] = gates.asleep(request, one.now) or Reason(
                Code.NOT_EVALUATED, node=request.node, note=f"no node {request.node} in the quota tree"
            )
        # What these are told follows from this plan alone.
        self._untold = {self.pending[uid].node for uid in one.fresh if uid in self.pending}
        alike: dict[tuple[int, int], bool] = {}
        news = {}
        for uid, reason in told.items():
            before = self.told.get(uid)
            pair = (id(before), id(reason))
            if pair not in alike:
                alike[pair] = before is not None and before.says(reason)
            if not alike[pair]:
                news[uid] = reason
        self.told |= told
        return news

    def _keeps(self, job: Admitted) -> bool:
        """Whether it has what it had, and only came further: then nobody's chances have changed."""
        uid, request = job.request.uid, job.request
        old = self.admitted.get(uid)
        if old is None or old.stopping:
            return False
        further = replace(
            old.request,
            requeued=request.requeued,
            attempted=request.attempted,
            not_before=request.not_before,
            overtaken=request.overtaken,
        )
        if replace(old, request=further, checkpoint_time=job.checkpoint_time) != job:
            return False
        self.admitted[uid] = job
        if job.checkpoint_time != old.checkpoint_time and self.state.tree.waits(request.node):
            self.stirred |= self.queue.saved(self.state.tree.seats[request.node])
        for state in (self.state, self._full):
            if state is not None and request.node in state.running:
                state.swap(job)
        return True

    def _hold(self, job: Admitted) -> None:
        uid = job.request.uid
        planned = self._expected.pop(uid, None)
        self.admitted[uid] = job
        if job.request.node not in self.state.running:
            return
        if job.stopping:
            self.stopping[uid] = job
        elif planned is not None and (planned.option, planned.machines) == (job.option, job.machines):
            # All failures of the last pass were seen with it in its place: it is no news to them.
            with self.state.tentative():
                self.state.add(job)
            self.state.note(job.request.node)
        else:
            self.state.add(job)
        if self._full is not None:
            self._full.add(job)

    def _forget(self, uid: str) -> None:
        self.told.pop(uid, None)
        if self.pending.pop(uid, None) is not None:
            if self.aside.pop(uid, None) is None:
                self.queue.drop(uid)
            return
        job = self.admitted.pop(uid, None)
        if job is None or job.request.node not in self.state.running:
            return
        if self.stopping.pop(uid, None) is None:
            self.state.remove(job)
        if self._full is not None:
            self._full.remove(job)

    def owners(self) -> set[str]:
        """Jobs that others were evicted for, or are in their grace for."""
        return {job.stopping for job in self.stopping.values()} | set(self.frame.claims)

    @property
    def actual(self) -> State | None:
        """Where victims hold what they have until they are gone; None while nobody is in a grace."""
        return self.full_state() if self.stopping else None

    def full_state(self) -> State:
        """A state of its own in which all that is admitted holds its place; kept from then on."""
        if self._full is None:
            self._full = State(self.frame.nodes, self.frame.flavors, self.frame.pools)
            for job in self.admitted.values():
                if job.request.node in self._full.running:
                    self._full.add(job)
        return self._full

    def _wake(self, now: int) -> None:
        """Brings jobs into the queue that nothing keeps aside any more, and takes back those that sleep."""
        for uid, request in list(self.aside.items()):
            if request.node in self.state.tree.seats and gates.asleep(request, now) is None:
                del self.aside[uid]
                self.queue.put(request)
                self._untold.add(request.node)

    def _disappointed(self) -> None:
        """What the last plan gave and did not come about leaves room that others were told was taken.

        Only for whom others were evicted gets its promise again before anybody else is looked at.
        """
        owners = self.owners()
        again = {uid for uid in self._promised if uid in owners and uid in self.pending}
        given = [job for uid, job in self._promised.items() if uid not in again]
        for job in (*self._expected.values(), *given):
            seat = self.state.tree.seats.get(job.request.node)
            option = job.request.options[job.option]
            room = self.state.room(option)
            if room is not None:
                room.gen += 1
            for key, _ in option.usage:
                cell = None if seat is None else seat.cell(key)
                for one in cell.path() if cell is not None else ():
                    one.gen += 1
                    one.move += 1
            self.state.tree.changes += 1
        self._expected, self._promised = {}, {}


def _doubtful(old: Sequence[Budget], new: Sequence[Budget]) -> bool:
    """Whether a budget says something else to somebody now. What it has left does that when it is spent, and
    at any time where it is to be safe."""
    if old is new or old == new:
        return False
    if [one.id for one in old] != [one.id for one in new]:
        return True
    return any(
        replace(one, left=other.left, unused=other.unused) != other
        or one.safe
        or (one.left <= 0) != (other.left <= 0)
        for one, other in zip(old, new, strict=True)
        if one != other
    )


__all__ = ["ALWAYS", "Change", "Engine", "Gone", "decide"]

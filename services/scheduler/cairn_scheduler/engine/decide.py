"""`decide(snapshot) -> Plan`, and the engine that keeps its indexes from one decision to the next.

A fresh engine and one that was told of every change make the same plan: what an engine remembers are failures
whose causes did not change. Nothing here waits, asks or looks at a clock.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from cairn_scheduler.engine import gates
from cairn_scheduler.engine.order import ALWAYS, Line, Queue
from cairn_scheduler.engine.passes import Pass
from cairn_scheduler.engine.state import State
from cairn_scheduler.engine.world import Admitted, JobRequest, Plan, Reason, Snapshot


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
        self.actual: State | None = None
        self.told: dict[str, Reason] = {}
        self._expected: dict[str, Admitted] = {}
        self.apply((*snapshot.admitted, *snapshot.pending))

    def apply(self, changes: Iterable[Change]) -> None:
        """Takes in what happened, in order: a request is pending now, an admitted one holds its place."""
        for change in changes:
            if isinstance(change, Gone):
                self._forget(change.uid)
            elif isinstance(change, Admitted):
                self._forget(change.request.uid)
                self._hold(change)
            else:
                self._forget(change.uid)
                self.pending[change.uid] = change
                self.aside[change.uid] = change

    def edit(self, **fields: Any) -> None:
        """Other nodes, pools, budgets, circuits ...: fields of the snapshot other than its jobs."""
        snapshot = self.snapshot(self.frame.now)
        told = self.told
        if fields.keys() & {"nodes", "flavors", "pools", "classes"}:
            self.__init__(replace(snapshot, **fields))  # type: ignore[misc]
            self.told = told
        else:
            self.frame = replace(self.frame, **fields)

    def snapshot(self, now: int) -> Snapshot:
        """All of it as a value, in the order of uids."""
        pending = tuple(self.pending[uid] for uid in sorted(self.pending))
        admitted = tuple(self.admitted[uid] for uid in sorted(self.admitted))
        return replace(self.frame, now=now, pending=pending, admitted=admitted)

    def decide(self, now: int) -> Plan:
        """The plan at this time. The engine itself stays as it is until the plan's effects are applied."""
        self._disappointed()
        self._wake(now)
        barred: dict[str, str] = {}
        one = Pass(self, now, barred)
        plan = one.run()
        while one.unstable.keys() - barred.keys():
            barred |= one.unstable
            one = Pass(self, now, barred)
            plan = one.run()
        self._expected = one.expected
        news = {uid: reason for uid, reason in plan.reasons.items() if not _same(self.told.get(uid), reason)}
        self.told = dict(plan.reasons)
        return replace(plan, news=news)

    def line(self, uid: str) -> Line | None:
        """The line that a pending job waits in."""
        return self.queue.line_of.get(uid)

    def _hold(self, job: Admitted) -> None:
        uid = job.request.uid
        self._expected.pop(uid, None)
        self.admitted[uid] = job
        if job.request.node not in self.state.running:
            return
        if job.stopping:
            if self.actual is None:
                self.actual = self.full_state()
            self.stopping[uid] = job
        else:
            self.state.add(job)
        if self.actual is not None:
            self.actual.add(job)

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
        if self.actual is not None:
            self.actual.remove(job)
            if not self.stopping:
                self.actual = None

    def full_state(self) -> State:
        """A state of its own in which everything that is in `state` holds its place."""
        other = State(self.frame.nodes, self.frame.flavors, self.frame.pools)
        for jobs in self.state.running.values():
            for job in jobs.values():
                other.add(job)
        return other

    def _wake(self, now: int) -> None:
        """Brings jobs into the queue that nothing keeps aside any more, and takes back those that sleep."""
        for uid, request in list(self.aside.items()):
            if request.node in self.state.tree.seats and gates.asleep(request, now) is None:
                del self.aside[uid]
                self.queue.put(request)

    def _disappointed(self) -> None:
        """Admissions of the last plan that did not come about leave room that others were told was taken."""
        for job in self._expected.values():
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
        self._expected = {}


def _same(one: Reason | None, other: Reason) -> bool:
    """Whether two say the same; how much is used changes all the time."""
    return one is other or (one is not None and replace(one, used=other.used) == other)


__all__ = ["ALWAYS", "Change", "Engine", "Gone", "decide"]

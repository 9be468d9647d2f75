"""One pass over everything: who starts, who is evicted for whom, who waits and why.

All changes are made to the engine's state as the pass goes, so that each decision sees those before it, and
are undone in the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cairn_scheduler.engine import gates
from cairn_scheduler.engine.awake import Awake, goes_on
from cairn_scheduler.engine.bars import Bars
from cairn_scheduler.engine.choose import Choice, Ground
from cairn_scheduler.engine.comeback import comes_back
from cairn_scheduler.engine.hold import foresee
from cairn_scheduler.engine.lineup import LineUp
from cairn_scheduler.engine.order import ALWAYS, Line, Shape
from cairn_scheduler.engine.ousting import could_oust, foremost, ousted
from cairn_scheduler.engine.quota import Seat
from cairn_scheduler.engine.spared import spared
from cairn_scheduler.engine.state import State
from cairn_scheduler.engine.victims import LATE, Search, Victims
from cairn_scheduler.engine.watch import Watch
from cairn_scheduler.engine.world import (
    CAN_STARVE,
    Admission,
    Admitted,
    Code,
    Hold,
    JobRequest,
    Key,
    Option,
    Plan,
    Preemption,
    Reason,
    Why,
)

if TYPE_CHECKING:
    from cairn_scheduler.engine.decide import Engine


@dataclass(frozen=True, slots=True)
class _Failure:
    """Why a line failed when the state had changed so often, and what that hangs on."""

    changes: int
    reason: Reason
    until: int
    minds: Watch


class Pass:
    """See the module; `expected` is what the plan's admissions will hold."""

    def __init__(self, engine: Engine, now: int, bars: Bars, awake: Awake) -> None:
        self.engine, self.now, self.bars, self.awake = engine, now, bars, awake
        # Jobs for which nobody is to be evicted, and who would evict them: then the plan is void.
        self.unstable: dict[str, str] = {}
        # Lines that failed when somebody was evicted for another already: where the plan is void, so is that.
        self.tainted: set[Line] = set()
        # Jobs that got a place in this pass and had to leave it again, and to whom.
        self.withdrawn: dict[str, tuple[str, ...]] = {}
        self.state = engine.state
        self.frame, self.policy = engine.frame, engine.frame.policy
        self.gates = gates.Gates(self.state, engine.frame, now)
        self.ground = Ground(self.state, engine.actual, self.gates, now)
        self.use: dict[tuple[str, str], int] = dict(engine.frame.use)
        self.holds: list[Hold] = []
        self.admissions: dict[str, Admission] = {}
        self.promises: dict[str, Admission] = {}
        self.preemptions: list[Preemption] = []
        self.expected: dict[str, Admitted] = {}
        # Jobs that got or were promised a place in this pass; those for which others are evicted keep it.
        self.fresh: dict[str, Admitted] = {}
        self.overtaken: dict[str, int] = {}
        self.wake: list[int] = list(awake.wake)
        # Whether it was an `add`.
        self._undo: list[tuple[State, bool, Admitted]] = []
        self._turns = LineUp(engine, awake.names, self.use, self.fresh)
        self._starving: dict[Key, list[JobRequest]] = {}
        self._tried: list[Line] = []
        self._nominal = self._doubtful = False
        self._kept: dict[str, JobRequest] = {}
        # Who evicts others, or did so before and waits still.
        self._owners: set[str] = set()
        # From which priority on jobs may evict others.
        self._level = bars.level
        self._checked: dict[Line, tuple[int, int, bool]] = {}
        # Searches for victims that found nobody: how often the state had changed by then, and their `until`.
        self._nobody: dict[Shape, tuple[int, int]] = {}
        # How lines failed, for those that fail alike; None where each job may be told something else.
        plain = not self.frame.budgets and not self.frame.circuits
        self._twins: dict[int, _Failure] | None = {} if plain else None

    def run(self) -> Plan:
        """Makes the plan and leaves the engine's state as it was."""
        self._evict_for_nobody()
        self._keep_holds()
        self._keep_claims()
        self._fill()
        plan = self._plan()
        for state, added, job in reversed(self._undo):
            state.undo(job, added=added)
        return plan

    # What goes before everything else

    def _evict_for_nobody(self) -> None:
        if not self.gates.evicts():
            return
        running = [job for uid, job in sorted(self.engine.admitted.items()) if not job.stopping]
        held = [job for job in running if job.request.node in self.state.running]
        for job, budget in self.gates.evicted(held):
            self._evict(job, Why.DRAIN if budget is None else Why.BUDGET, "")

    def _keep_holds(self) -> None:
        """Reservations that go on; one that has run out rests for as long again."""
        holds = goes_on(self.engine, self.frame.holds, self.now)
        for hold in sorted(holds, key=lambda hold: (hold.pool, hold.uid)):
            request = self.engine.pending[hold.uid]
            line = self.engine.line(hold.uid)
            if line is not None and self.now < hold.until:
                self._foresee(line.seat, request, hold.flavor, hold.until)
            else:
                self.holds.append(hold)

    def _foresee(self, seat: Seat, request: JobRequest, flavor: str, until: int) -> None:
        option = next((option for option in request.options if option.flavor == flavor), None)
        if option is None:
            return
        shadow = foresee(self.state, seat, request, option, self.now, self.policy, until)
        if shadow is not None:
            if self._twins:
                self._twins.clear()
            self.ground.shadows.append(shadow)
            self.holds.append(shadow.hold)

    def _keep_claims(self) -> None:
        """Jobs for which others were evicted keep the places that these left, or will leave.

        Else a victim whose node's turn comes first would take its place back, to be evicted again.
        """
        owners = self.engine.owners()
        lines = [(line, self.engine.pending[uid]) for uid in owners if (line := self.engine.line(uid))]
        lines.sort(key=lambda pair: (-pair[1].priority, pair[1].create_time, pair[1].uid))
        for line, request in lines:
            if self.gates.stopped(line.seat) is not None or line.fixed is not None:
                continue
            self._owners.add(request.uid)
            chosen = self.ground.choose(line.seat, request, gates.usable(self.state, line.seat, request))
            if isinstance(chosen, Choice):
                self._start(line.seat, request, chosen)

    # The main part

    def _fill(self) -> None:
        """First what stays within the nominal quotas; then all others, who borrow or evict."""
        self._turns.gather(self._may_be_nominal)
        self._nominal = True
        self._work_off()
        self._nominal = False
        self._turns.gather()
        for _, job in sorted(self.engine.stopping.items()):
            if job.stopping != "-":
                self._return(job)
        self._work_off()
        while self._try_again() or self._lower_level():
            self._work_off()
        kept = foremost(self.fresh[uid] for uid in self._kept)
        for line in self._tried if kept else ():
            self._see_who_ousts(line, kept)

    def _see_who_ousts(self, line: Line, kept: Sequence[Admitted]) -> None:
        """Whether in the next pass, or once others have run long enough, it would evict a job for which this
        plan evicts others."""
        request = line.head()
        if request is None or self.bars.keep(request.uid, self.fresh):
            return
        if not could_oust(self.state, line.seat, request, kept):
            return
        for now in (self.now, LATE) if self.state.tree.rests else (self.now,):
            searches = ((index, self._search(line, request, index, now)) for index in line.options or ())
            self.unstable |= dict.fromkeys(ousted(searches, self.policy, self._kept), request.uid)

    def _search(self, line: Line, request: JobRequest, index: int, now: int) -> Search:
        return Search(self.state, line.seat, request, request.options[index], now, self.engine.classes)

    def _work_off(self) -> None:
        while (line := self._turns.next()) is not None:
            request = line.head()
            assert request is not None
            reason = self._try(line, request)
            if reason is not None:
                self._failed(line, request, reason)
            self._turns.passed(line, started=reason is None)

    def _try_again(self) -> bool:
        """When all were tried: those whose chances have changed since they were; each change once."""
        chances = {line: self._chances(line) for line in self._tried}
        again = {line: now for line, now in chances.items() if self._checked.get(line) != now}
        self._tried = [line for line in self._tried if line not in again]
        self._checked |= again
        for line in again:
            if not line.unchanged(self.now):
                self._turns.revive(line)
            else:
                self._tried.append(line)
        return bool(self._turns)

    def _lower_level(self) -> bool:
        """Lets those of the next lower priority evict, too, where evictions go by priority."""
        heads = {request.priority for line in self._tried if (request := line.head()) is not None}
        for self._level in sorted((one for one in heads if one < self._level), reverse=True):
            if self._try_again():
                return True
        return False

    def _chances(self, line: Line) -> tuple[int, int, bool]:
        request = line.head()
        return (*_marks(line), request is not None and self._barred(request))

    def _barred(self, request: JobRequest) -> bool:
        return request.priority < self._level or self.bars.keep(request.uid, self.fresh)

    def _try(self, line: Line, request: JobRequest) -> Reason | None:
        """Starts a job, or plans whom to evict for it; else why not."""
        seat = line.seat
        # Its failure hangs on more than what it itself can see change.
        self._doubtful = barred = self._barred(request)
        others = self.withdrawn.get(request.uid, ())
        if len(others) >= _MOST_WITHDRAWN:
            return Reason(Code.RESERVED_FOR, node=seat.id, others=others)
        stopped = self.gates.stopped(seat)
        if stopped is not None:
            return stopped
        assert line.options is not None
        if line.fixed is not None:
            return line.fixed
        if line.reason is not None and line.unchanged(self.now):
            self._reserve(seat, request, line.options, line.reason)
            return line.reason
        twin = self._failed_alike(line, request)
        if twin is not None:
            line.until = twin.until
            self._reserve(seat, request, line.options, twin.reason)
            return twin.reason
        chosen = self.ground.choose(seat, request, line.options)
        if isinstance(chosen, Choice) and not (self._nominal and chosen.debt):
            self._start(seat, request, chosen)
            return None
        if self._nominal or isinstance(chosen, Choice):
            return _LATER
        line.until = 0
        for index in chosen.short:
            victims = [] if barred else self._victims(line, request, index)
            if victims:
                self._preempt(seat, request, index, victims)
                return None
        reason = chosen.reason
        if line.until and not barred:
            base = self._search(line, request, 0, LATE)
            base.protected = self._kept
            reason = spared(reason, base, chosen.short, self.policy)
        if request.priority >= self._level:
            self._reserve(seat, request, line.options, reason)
        return reason

    def _failed_alike(self, line: Line, request: JobRequest) -> _Failure | None:
        """The failure of a line like it, where nothing has changed since and this job is nothing special."""
        if self._twins is None or line.twin is None or not self._plain(request):
            return None
        found = self._twins.get(line.twin)
        return None if found is None or found.changes != self.state.tree.changes else found

    def _plain(self, request: JobRequest) -> bool:
        special = self._doubtful or request.uid in self.withdrawn
        return not special and not any(hold.uid == request.uid for hold in self.holds)

    def _may_be_nominal(self, line: Line) -> bool:
        """Whether its next job may start within the nominal quotas."""
        request = line.head()
        assert request is not None
        if line.fixed is not None or (line.reason is not None and line.unchanged(self.now)):
            return False
        return not all(line.seat.debt(request.options[n].usage) for n in line.options or ())

    def _start(self, seat: Seat, request: JobRequest, choice: Choice) -> None:
        """A job gets its place, or the promise of it."""
        option = request.options[choice.option]
        pool, borrows = self.state.pool(option), choice.debt > 0
        admission = Admission(request.uid, choice.option, option.flavor, pool, choice.machines, borrows)
        job = Admitted(request, choice.option, choice.machines, self.now)
        self._add(self.state, job)
        self.fresh[request.uid] = job
        if choice.now and request.uid not in self.engine.admitted:
            self.admissions[request.uid] = admission
            self.expected[request.uid] = job
            if self.ground.actual is not None:
                self._add(self.ground.actual, job)
        else:
            self.promises[request.uid] = admission
        self.gates.admitted(seat, request, option)
        for shadow in self.ground.shadows:
            shadow.passed(seat, job, self.now)
        by = (seat.id, request.user)
        self.use[by] = self.use.get(by, 0) + max(1, gates.gpus(option)) * 3_600_000
        self._pass_by(request, option)
        self._turns.changed(seat)

    def _add(self, state: State, job: Admitted) -> None:
        state.add(job)
        self._undo.append((state, True, job))

    # Eviction

    def _victims(self, line: Line, request: JobRequest, index: int) -> Victims:
        """Whom to evict; nobody where that would come back to it."""
        option, alike = request.options[index], line.alike(index)
        changes, until = self._nobody.get(alike, (ALWAYS, 0))
        if changes != self.state.tree.changes:
            search = self._search(line, request, index, self.now)
            search.protected = self._kept
            found, until = search.run(self.policy), search.until
        else:
            found = []
        if until:
            line.until = min(line.until or until, until)
        if not found:
            self._nobody[alike] = (self.state.tree.changes, until)
            return []
        if comes_back(search, found, index, self.policy):
            if line.watch.covers(job.request for job, _ in found):
                self._nobody[alike] = (self.state.tree.changes, until)
            else:
                self._doubtful = True
            return []
        if any(not shadow.passes(line.seat, request, option, self.now)[0] for shadow in self.ground.shadows):
            return []
        return found

    def _preempt(self, seat: Seat, request: JobRequest, index: int, victims: Victims) -> None:
        for job, why in victims:
            if job.request.uid in self.fresh:
                self._withdraw(job, request.uid)
            else:
                self._evict(job, why, request.uid)
                self._kept[request.uid] = request
                self._owners.add(request.uid)
        option = request.options[index]
        # At once, where all of them had only just been planned.
        choice = self.ground.choose(seat, request, [index])
        if not isinstance(choice, Choice):
            placement = self.state.place(request, option)
            assert placement is not None
            choice = Choice(index, placement, False, seat.debt(option.usage))
        self._start(seat, request, choice)
        # Who would have to evict, too, is tried again only when all were tried: there are many.
        again = {one for one in self._tried if one.freed != one.minds.freed() and self.ground.has_room(one)}
        for line in [line for line in self._tried if line in again]:
            self._turns.revive(line)
        self._tried = [line for line in self._tried if line not in again]

    def _evict(self, job: Admitted, why: Why, by: str) -> None:
        if self.ground.actual is None:
            self.ground.actual = self.engine.full_state()
            for fresh in self.expected.values():
                self._add(self.ground.actual, fresh)
        self.state.remove(job)
        self._undo.append((self.state, False, job))
        self.preemptions.append(Preemption(job.request.uid, why, by))
        if by:
            self._return(job)

    def _withdraw(self, job: Admitted, to: str) -> None:
        """A job that only just got its place would be evicted in the next pass: it does not start at all."""
        request = job.request
        uid, option = request.uid, request.options[job.option]
        del self.fresh[uid]
        self.withdrawn[uid] = (*self.withdrawn.get(uid, ()), to)
        self.state.remove(job)
        self._undo.append((self.state, False, job))
        if self.expected.pop(uid, None) is not None and self.ground.actual is not None:
            self.ground.actual.remove(job)
            self._undo.append((self.ground.actual, False, job))
        self.admissions.pop(uid, None)
        self.promises.pop(uid, None)
        self.gates.withdrawn(self.state.tree.seats[request.node], request, option)
        line = self.engine.line(uid)
        if line is not None:
            self._turns.open(line)
            self._turns.revive(line)

    def _return(self, job: Admitted) -> None:
        """A victim waits again, at the head of its class; it may be promised another place at once."""
        request = replace(job.request, requeued=True, attempted=True)
        seat = self.state.tree.seats[request.node]
        watch = self.engine.queue.watches.of(seat, request.options)
        line = Line((request.uid,), seat, request, watch)
        line.put(request)
        self._turns.revive(line)

    # Those who stay

    def _failed(self, line: Line, request: JobRequest, reason: Reason) -> None:
        if self._nominal:
            return
        line.reason = reason
        line.freed = line.moved = ALWAYS
        if self._kept:
            self.tainted.add(line)
        if reason.code in _UNTIL_FREED:
            if not self._doubtful:
                twin = self._failed_alike(line, request)
                line.minds = self._minds(line, request) if twin is None else twin.minds
                line.freed, line.moved = _marks(line)
                first = twin is None and self._plain(request)
                if self._twins is not None and line.twin is not None and first:
                    made = _Failure(self.state.tree.changes, reason, line.until, line.minds)
                    self._twins[line.twin] = made
            self._tried.append(line)
        for key in {(reason.flavor, reason.resource)} if reason.code in CAN_STARVE else ():
            waiting = self._starving.setdefault(key, [])
            if len(waiting) < _MOST_WATCHED and request.uid in self.engine.pending:
                waiting.append(request)

    def _minds(self, line: Line, request: JobRequest) -> Watch:
        options = [request.options[index] for index in line.options or ()]
        return self.engine.queue.watches.less(line.seat, request, options) or line.watch

    def _pass_by(self, request: JobRequest, option: Option) -> None:
        """Counts those that it passed and that lack what it took."""
        for key, amount in option.usage:
            for waiting in self._starving.get(key, ()) if amount > 0 else ():
                if waiting.uid != request.uid:
                    count = self.overtaken.get(waiting.uid, waiting.overtaken)
                    self.overtaken[waiting.uid] = count + 1

    def _reserve(self, seat: Seat, request: JobRequest, options: list[int], reason: Reason) -> None:
        """The bounded reservation of a job that starves within its nominal quota."""
        if reason.code not in CAN_STARVE or request.uid not in self.engine.pending:
            return
        overtaken = self.overtaken.get(request.uid, request.overtaken)
        due = request.create_time + self.policy.reserve_after
        if due > self.now and overtaken < self.policy.most_overtaken:
            self.wake.append(due)
            return
        for index in options:
            option = request.options[index]
            pool = self.state.pool(option)
            taken = any(hold.pool == pool or hold.uid == request.uid for hold in self.holds)
            if not taken and seat.holds(option.usage):
                self._foresee(seat, request, option.flavor, self.now + self.policy.reserve_bound)
                return

    def _plan(self) -> Plan:
        return Plan(
            admissions=tuple(self.admissions.values()),
            promises=tuple(self.promises.values()),
            preemptions=tuple(self.preemptions),
            holds=tuple(self.holds),
            claims=tuple(sorted(self._owners & self.fresh.keys())),
            overtaken=self.overtaken,
            wake_at=self._wake_at(),
            version=self.frame.version,
        )

    def waiting_for(self) -> Reason:
        """Why who was promised a place has to wait."""
        victims = [p.uid for p in self.preemptions] + list(self.engine.stopping)
        gone = max((job.gone_at for job in self.engine.stopping.values()), default=0)
        return Reason(
            Code.WAITING_FOR_VICTIMS, requested=len(victims), others=tuple(sorted(victims)[:5]), until=gone
        )

    def _wake_at(self) -> int | None:
        times = [*self.wake, *self.gates.wake]
        times += [r.not_before for r in self.engine.aside.values()]
        times += [hold.until for hold in self.holds] + [s.hold.start for s in self.ground.shadows]
        for name in self.awake.names:
            times += [line.until for line in self.engine.queue.lines[name].values() if line.until]
        return min((time for time in times if time > self.now), default=None)


_LATER = Reason(Code.NOT_EVALUATED)
_UNTIL_FREED = CAN_STARVE | {Code.EXCEEDS_MAX, Code.NO_MATCHING_FLAVOR}

# Who had to leave a place again so often in one pass does not get another one in it.
_MOST_WITHDRAWN = 3
# So many jobs that lack the same are watched for being overtaken; those behind them are not first anyway.
_MOST_WATCHED = 16


def _marks(line: Line) -> tuple[int, int]:
    return line.minds.freed(), line.minds.moved()

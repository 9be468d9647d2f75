"""Why a job waits, with evidence, and the smallest changes that would let it start now.

Each change that is offered was tried: the snapshot with it, decided anew, gives the job a place.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from cairn_scheduler.engine import gates
from cairn_scheduler.engine.decide import Change as Moved
from cairn_scheduler.engine.decide import Engine, Gone, decide
from cairn_scheduler.engine.hold import foresee
from cairn_scheduler.engine.world import (
    ANY,
    Admitted,
    Code,
    JobRequest,
    Key,
    Option,
    Plan,
    Quota,
    Reason,
    Snapshot,
)

MOST_HOLDERS = 5
# Smallest first; what is still not enough then is not offered.
_TRIES = 4


@dataclass(frozen=True, slots=True)
class Level:
    """One node of the job's path, in the key that is short. `limit`: None for no limit of its own."""

    node: str
    nominal: int
    limit: int | None
    used: int


@dataclass(frozen=True, slots=True)
class Holder:
    """A running job that has some of what is short."""

    uid: str
    node: str
    amount: int


@dataclass(frozen=True, slots=True)
class Change:
    """One change that would let the job start: in words, and as the snapshot in which it does."""

    kind: str
    words: str
    snapshot: Snapshot


@dataclass(frozen=True, slots=True)
class Explanation:
    """All about one pending job. `position` counts from 1 among `waiting` jobs that want the same flavors."""

    uid: str
    reason: Reason
    path: tuple[Level, ...]
    holders: tuple[Holder, ...]
    position: int
    waiting: int
    eta: int | None
    changes: tuple[Change, ...]


def refusal(snapshot: Snapshot, request: JobRequest) -> Reason | None:
    """Why a job could never start, whoever ends: for the check at submission. None: it could."""
    engine = Engine(replace(snapshot, pending=(), admitted=()))
    seat = engine.state.tree.seats.get(request.node)
    if seat is None:
        return Reason(Code.NOT_EVALUATED, node=request.node, note=f"no node {request.node} in the quota tree")
    pending = [job.node for job in snapshot.pending]
    for one in seat.path():
        most = one.node.max_pending
        if most is not None:
            below = sum(any(s is one for s in engine.state.tree.seats[n].path()) for n in pending)
            if below >= most:
                return Reason(
                    Code.EXCEEDS_MAX, node=one.id, resource="pending", requested=below + 1, limit=most
                )
    return gates.refused_for_ever(engine.state, seat, request, engine.classes)


def explain(snapshot: Snapshot, uid: str, *, changes: bool = True) -> Explanation | None:
    """None where the job does not wait: it is not pending, or starts with the next plan."""
    request = next((job for job in snapshot.pending if job.uid == uid), None)
    engine = Engine(snapshot)
    plan = engine.decide(snapshot.now)
    reason = plan.reasons.get(uid)
    if request is None or reason is None:
        return None
    key = (reason.flavor, reason.resource)
    position, waiting = _position(snapshot, request)
    found = Explanation(
        uid=uid,
        reason=reason,
        path=_path(engine, request, key),
        holders=_holders(snapshot, key),
        position=position,
        waiting=waiting,
        eta=_eta(engine, snapshot, request, reason),
        changes=(),
    )
    if not changes:
        return found
    # The last that the engine is used for: it is turned from one changed world into the next.
    return replace(found, changes=tuple(_changes(_Tries(engine, snapshot), request, reason)))


def _path(engine: Engine, request: JobRequest, key: Key) -> tuple[Level, ...]:
    levels = []
    seat = engine.state.tree.seats.get(request.node)
    cell = None if seat is None else seat.cell(key)
    for one in cell.path() if cell is not None else ():
        limits = [one.most] if one.most is not None else []
        if one.borrow is not None:
            limits.append(one.quota + one.borrow)
        elif one.parent is None:
            limits.append(one.quota)
        own = one.seat.node.quotas.get(key, Quota())
        levels.append(Level(one.seat.id, own.nominal, min(limits, default=None), one.total))
    return tuple(levels)


def _holders(snapshot: Snapshot, key: Key) -> tuple[Holder, ...]:
    """Who has the most of it."""
    held = []
    for job in snapshot.admitted:
        amount = dict(job.request.options[job.option].usage).get(key, 0)
        if amount > 0:
            held.append(Holder(job.request.uid, job.request.node, amount))
    held.sort(key=lambda one: (-one.amount, one.uid))
    return tuple(held[:MOST_HOLDERS])


def _position(snapshot: Snapshot, request: JobRequest) -> tuple[int, int]:
    flavors = {option.flavor for option in request.options}
    rivals = [job for job in snapshot.pending if flavors & {option.flavor for option in job.options}]
    mine = _rank(request)
    return 1 + sum(_rank(job) < mine for job in rivals), len(rivals)


def _rank(job: JobRequest) -> tuple[int, bool, int, str]:
    return (-job.priority, not job.requeued, job.create_time, job.uid)


def _eta(engine: Engine, snapshot: Snapshot, request: JobRequest, reason: Reason) -> int | None:
    """When there will be room by what is known of the running jobs, were it the next."""
    if reason.until > snapshot.now:
        return reason.until
    line = engine.line(request.uid)
    if line is None or reason.code in (Code.EXCEEDS_MAX, Code.NO_MATCHING_FLAVOR, Code.HELD):
        return None
    starts = []
    for option in request.options:
        shadow = foresee(engine.state, line.seat, request, option, snapshot.now, snapshot.policy, 0)
        if shadow is not None and shadow.hold.start > snapshot.now:
            starts.append(shadow.hold.start)
    return min(starts, default=None)


class _Tries:
    """Whether a job starts in one changed world after the other: one engine is told what is different.

    A new engine for each looks at the whole queue again; what an engine remembers is true for it still.
    """

    def __init__(self, engine: Engine, snapshot: Snapshot) -> None:
        self.snapshot = self._at = snapshot
        self._engine = engine

    def starts(self, then: Snapshot, uid: str) -> bool:
        """As the function."""
        if then.nodes is not self.snapshot.nodes:
            return starts(then, uid)
        self._engine.apply(_different(self._at, then))
        if then.budgets is not self._at.budgets:
            self._engine.edit(budgets=then.budgets)
        self._at = then
        return _placed(self._engine.decide(then.now), uid)


def _different(old: Snapshot, new: Snapshot) -> Iterator[Moved]:
    """What happened to jobs from one snapshot to the other."""
    before = {job.uid: job for job in old.pending} | {job.request.uid: job for job in old.admitted}
    after = {job.uid: job for job in new.pending} | {job.request.uid: job for job in new.admitted}
    yield from (Gone(uid) for uid in before if uid not in after)
    yield from (job for uid, job in after.items() if before.get(uid) is not job)


def _changes(tries: _Tries, request: JobRequest, reason: Reason) -> Iterator[Change]:
    """Of each kind the smallest that was found to be enough."""
    snapshot = tries.snapshot
    quotas = list(_raise_quota(snapshot, request, reason))
    # Each of these costs an engine of its own: where the largest is not enough, the others are not tried.
    if quotas and not tries.starts(quotas[-1].snapshot, request.uid):
        quotas = []
    kinds: tuple[Iterable[Change], ...] = (
        _let_go(snapshot, request, reason),
        quotas,
        _end_others(snapshot, request, reason),
        _go_elsewhere(snapshot, request),
        _ask_for_less(snapshot, request),
        _go_first(snapshot, request),
        _grant(snapshot, reason),
    )
    for kind in kinds:
        for change, _ in zip(kind, range(_TRIES), strict=False):
            if tries.starts(change.snapshot, request.uid):
                yield change
                break


def starts(snapshot: Snapshot, uid: str) -> bool:
    """Whether a job has a place in the plan for it, at once or when victims are gone."""
    return _placed(decide(snapshot), uid)


def _placed(plan: Plan, uid: str) -> bool:
    return any(one.uid == uid for one in (*plan.admissions, *plan.promises))


def _with(snapshot: Snapshot, request: JobRequest) -> Snapshot:
    others = tuple(job for job in snapshot.pending if job.uid != request.uid)
    return replace(snapshot, pending=(*others, request))


def _let_go(snapshot: Snapshot, request: JobRequest, reason: Reason) -> Iterator[Change]:
    if reason.code in (Code.HELD, Code.DEPENDENCY_WAIT, Code.RETRY_WAIT):
        free = replace(request, held="", waits_for=(), not_before=0)
        yield Change("release", "if nothing held it back", _with(snapshot, free))


def _raise_quota(snapshot: Snapshot, request: JobRequest, reason: Reason) -> Iterator[Change]:
    key = (reason.flavor, reason.resource)
    amounts = [dict(option.usage).get(key, 0) for option in request.options]
    if not reason.node or not any(amounts):
        return
    missing = max(1, reason.used + max(amounts) - reason.limit, max(amounts) - reason.limit)
    for more in (missing, max(amounts), 2 * max(amounts), 4 * max(amounts)):
        nodes = []
        for node in snapshot.nodes:
            if node.id == reason.node:
                quota = node.quotas.get(key, Quota())
                quota = replace(
                    quota,
                    nominal=quota.nominal + (more if quota.nominal or quota.most is None else 0),
                    most=None if quota.most is None else quota.most + more,
                )
                node = replace(node, quotas={**node.quotas, key: quota})
            nodes.append(node)
        words = f"{more / 1000:g} more {key[1]} of {_flavor(key[0])} in the quota of {reason.node}"
        yield Change("quota", words, replace(snapshot, nodes=tuple(nodes)))


def _end_others(snapshot: Snapshot, request: JobRequest, reason: Reason) -> Iterator[Change]:
    key = (reason.flavor, reason.resource)
    flavors = {option.flavor for option in request.options}
    using = [job for job in snapshot.admitted if _amount(job, key) or not reason.resource]
    using = [job for job in using if key[0] == ANY or job.request.options[job.option].flavor in flavors]
    using.sort(key=lambda job: (-_amount(job, key), -job.admit_time, job.request.uid))
    for count in (1, 2, 4, len(using)):
        ended = {job.request.uid for job in using[:count]}
        if count <= len(using) and ended:
            left = tuple(job for job in snapshot.admitted if job.request.uid not in ended)
            words = (
                f"if {', '.join(sorted(ended)[:MOST_HOLDERS])}{' ...' if count > MOST_HOLDERS else ''} ended"
            )
            yield Change("end", words, replace(snapshot, admitted=left))


def _go_elsewhere(snapshot: Snapshot, request: JobRequest) -> Iterator[Change]:
    named = {option.flavor for option in request.options}
    if not request.options:
        return
    like = request.options[0]
    for flavor in snapshot.flavors:
        if flavor.name not in named:
            usage = tuple(
                sorted(((flavor.name if k[0] == like.flavor else k[0], k[1]), a) for k, a in like.usage)
            )
            other = replace(request, options=(*request.options, Option(flavor.name, usage)))
            yield Change("flavor", f"if it accepted {flavor.name}, too", _with(snapshot, other))


def _ask_for_less(snapshot: Snapshot, request: JobRequest) -> Iterator[Change]:
    """Fewer ranks; of a job of one rank fewer GPUs."""
    if request.ranks > 1:
        for ranks in sorted({request.ranks - 1, request.ranks // 2, 1}, reverse=True):
            options = tuple(
                replace(o, usage=tuple((k, _part(k, a, ranks, request.ranks)) for k, a in o.usage))
                for o in request.options
            )
            smaller = replace(request, ranks=ranks, options=options)
            yield Change("size", f"with {ranks} of its {request.ranks} ranks", _with(snapshot, smaller))
        return
    most = max((gates.gpus(option) for option in request.options), default=0) // 1000
    for count in sorted({most - 1, most // 2, 1} - {most, 0, -1}, reverse=True):
        options = tuple(
            replace(o, usage=tuple((k, min(a, count * 1000) if k[1] == "gpu" else a) for k, a in o.usage))
            for o in request.options
        )
        rank = tuple((r, min(a, count * 1000) if r == "gpu" else a) for r, a in request.per_rank)
        smaller = replace(request, options=options, per_rank=rank)
        yield Change("size", f"with {count} GPU{'' if count == 1 else 's'}", _with(snapshot, smaller))


def _go_first(snapshot: Snapshot, request: JobRequest) -> Iterator[Change]:
    """The least priority that is above those that wait and run beside it, one after the other."""
    mine = request.priority
    others = {job.priority for job in snapshot.pending} | {j.request.priority for j in snapshot.admitted}
    for priority in sorted({one + 1 for one in others if one + 1 > mine})[:_TRIES]:
        higher = replace(request, priority=priority)
        yield Change("priority", f"with priority {priority}", _with(snapshot, higher))


def _grant(snapshot: Snapshot, reason: Reason) -> Iterator[Change]:
    if reason.code not in (Code.BUDGET_EXHAUSTED, Code.BUDGET_UNSAFE):
        return
    name = reason.note.partition(":")[0]
    more = max(1, reason.requested - reason.limit, 1 - reason.limit)
    budgets = tuple(replace(b, left=b.left + more) if b.id == name else b for b in snapshot.budgets)
    yield Change("budget", f"{more} more in budget {name}", replace(snapshot, budgets=budgets))


def _part(key: Key, amount: int, ranks: int, of: int) -> int:
    return amount if key[1] == "jobs" else amount * ranks // of


def _amount(job: Admitted, key: Key) -> int:
    return dict(job.request.options[job.option].usage).get(key, 0)


def _flavor(name: str) -> str:
    return "all flavors together" if name == ANY else name

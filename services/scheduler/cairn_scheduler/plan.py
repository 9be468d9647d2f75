"""What to start next: a pure function of what is known.

Order: jobs that keep their place (due retries, then admitted ones) are launched; then the queue by
priority, retries before first attempts, oldest first. A job is admitted where it fits its team's quota and
a pool's free slots. A later, smaller job may pass one that does not fit, but each job is passed at most
`MOST_OVERTAKEN` times by jobs that take what it lacks; then those behind it wait.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from cairn_scheduler.circuits import Circuit, Gate
from cairn_scheduler.model import Resources

MOST_OVERTAKEN = 16


@dataclass(frozen=True, slots=True)
class Place:
    """A pool: all that it has, free or not."""

    name: str
    capacity: Resources


@dataclass(frozen=True, slots=True)
class Placed:
    """A job that holds slots of a pool. `due`: its next attempt is to be launched."""

    uid: str
    team: str
    pool: str
    need: Resources
    create_time: datetime
    due: bool = False
    retry_time: datetime | None = None


@dataclass(frozen=True, slots=True)
class Waiting:
    """A job in the queue; `need` is what all of its ranks need together."""

    uid: str
    team: str
    priority: int
    create_time: datetime
    need: Resources
    retry_time: datetime | None = None
    overtaken: int = 0
    # The only pool that it can run in; empty: any.
    pool: str = ""
    # The ways that it can go there, as circuits.py names them; none: it needs none.
    circuits: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Limit:
    """The quota service's word on a team: None means no limit of that kind.

    `refused` holds what it has just refused to reserve, with its reason in words; whoever asks for as
    much of everything or more would be refused as well.
    """

    gpus: int | None = None
    cpu_milli: int | None = None
    jobs: int | None = None
    refused: tuple[tuple[Resources, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that a decision depends on, the time included. A team without a limit entry is not known."""

    now: datetime
    places: Sequence[Place]
    placed: Sequence[Placed]
    waiting: Sequence[Waiting]
    limits: Mapping[str, Limit]
    # Those that are not closed.
    circuits: Mapping[str, Circuit] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Admission:
    """Start this job in this pool, once the quota service has agreed."""

    uid: str
    pool: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now. `overtaken` holds the counts that change when the admissions are carried out."""

    launches: tuple[str, ...]
    admissions: tuple[Admission, ...]
    reasons: Mapping[str, str]
    overtaken: Mapping[str, int]
    wake_at: datetime | None


@dataclass(slots=True)
class _Room:
    """Free slots of one pool while a plan is made."""

    place: Place
    cpu_milli: int
    gpus: int
    memory_mib: int

    def lacks(self, need: Resources) -> frozenset[str]:
        short = set()
        if need.cpu_milli > self.cpu_milli:
            short.add("cpu")
        if need.gpus > self.gpus:
            short.add("gpu")
        if need.memory_mib > self.memory_mib:
            short.add("memory")
        return frozenset(short)

    def take(self, need: Resources) -> None:
        self.cpu_milli -= need.cpu_milli
        self.gpus -= need.gpus
        self.memory_mib -= need.memory_mib


@dataclass(slots=True)
class _Held:
    """What one team holds while a plan is made."""

    gpus: int = 0
    cpu_milli: int = 0
    jobs: int = 0

    def take(self, need: Resources) -> None:
        self.gpus += need.gpus
        self.cpu_milli += need.cpu_milli
        self.jobs += 1


@dataclass(slots=True)
class _Blocked:
    """A job that waits for slots, and of which kinds it lacks some in each pool that could hold it."""

    job: Waiting
    short: Mapping[str, frozenset[str]]
    overtaken: int


def decide(snapshot: Snapshot) -> Plan:
    """One plan for one snapshot. The same whatever the order of its entries."""
    rooms = _rooms(snapshot)
    held = _holdings(snapshot)
    gate = Gate(snapshot.circuits, snapshot.now)
    blocked: list[_Blocked] = []
    admissions: list[Admission] = []
    reasons: dict[str, str] = {}
    for job in sorted(snapshot.waiting, key=_rank):
        reason = (
            _not_now(job, snapshot)
            or _over_quota(job, snapshot.limits, held)
            or gate.keeps(job.circuits, job.need)
        )
        if reason is None:
            fitting, reason = _fit(job, rooms, blocked)
            if fitting is not None:
                _pass(blocked, job, fitting.place.name)
                fitting.take(job.need)
                gate.passed(job.circuits, job.need, job.uid)
                held.setdefault(job.team, _Held()).take(job.need)
                admissions.append(Admission(job.uid, fitting.place.name))
                continue
        reasons[job.uid] = reason
    before = {job.uid: job.overtaken for job in snapshot.waiting}
    return Plan(
        launches=tuple(p.uid for p in sorted(snapshot.placed, key=_launch_order) if p.due),
        admissions=tuple(admissions),
        reasons=reasons,
        overtaken={b.job.uid: b.overtaken for b in blocked if b.overtaken != before[b.job.uid]},
        wake_at=_wake_at(snapshot, gate),
    )


def exceeds(need: Resources, places: Sequence[Place]) -> str | None:
    """Why no pool could ever hold this, in words; None where one could."""
    if any(_could_hold(place, need) for place in places):
        return None
    have = "; ".join(
        f"pool {p.name} has {describe(p.capacity)}" for p in sorted(places, key=lambda p: p.name)
    )
    return f"asks for {describe(need)} in all, and {have or 'there is no pool'}"


def reached(places: Sequence[Place], pool: str) -> list[Place]:
    """Those in which a job of `pool` may run; empty: any."""
    return [place for place in places if pool in ("", place.name)]


def describe(amount: Resources) -> str:
    """For people: `1.5 CPUs, 2 A100 GPUs, 512 MiB`."""
    words = [f"{amount.cpu_milli / 1000:g} CPU{'' if amount.cpu_milli == 1000 else 's'}"]
    if amount.gpus:
        kind = f"{amount.accelerator} " if amount.accelerator else ""
        words.append(f"{amount.gpus} {kind}GPU{'' if amount.gpus == 1 else 's'}")
    else:
        words.append("no GPU")
    if amount.memory_mib:
        words.append(f"{amount.memory_mib} MiB")
    return ", ".join(words)


def _rank(job: Waiting) -> tuple[int, bool, datetime, str]:
    return (-job.priority, job.retry_time is None, job.create_time, job.uid)


def _launch_order(job: Placed) -> tuple[bool, datetime, datetime, str]:
    return (job.retry_time is None, job.retry_time or job.create_time, job.create_time, job.uid)


def _rooms(snapshot: Snapshot) -> dict[str, _Room]:
    rooms = {
        place.name: _Room(place, place.capacity.cpu_milli, place.capacity.gpus, place.capacity.memory_mib)
        for place in sorted(snapshot.places, key=lambda p: p.name)
    }
    for job in snapshot.placed:
        if job.pool in rooms:
            rooms[job.pool].take(job.need)
    return rooms


def _holdings(snapshot: Snapshot) -> dict[str, _Held]:
    held: dict[str, _Held] = {}
    for job in snapshot.placed:
        held.setdefault(job.team, _Held()).take(job.need)
    return held


def _not_now(job: Waiting, snapshot: Snapshot) -> str | None:
    if job.retry_time is not None and job.retry_time > snapshot.now:
        return f"WaitingForRetry: the next attempt comes after {job.retry_time:%Y-%m-%d %H:%M:%S} UTC"
    if job.team not in snapshot.limits:
        return f"NotEvaluated: the quota service does not know team {job.team}"
    too_much = exceeds(job.need, reached(snapshot.places, job.pool))
    return f"NoMatchingPool: it {too_much}" if too_much else None


def _over_quota(job: Waiting, limits: Mapping[str, Limit], held: Mapping[str, _Held]) -> str | None:
    limit = limits[job.team]
    for least, told in limit.refused:
        if job.need.gpus >= least.gpus and job.need.cpu_milli >= least.cpu_milli:
            return f"QuotaFull: {told}"
    holds = held.get(job.team, _Held())
    rows = (
        ("GPUs", limit.gpus, holds.gpus, job.need.gpus, 1),
        ("CPUs", limit.cpu_milli, holds.cpu_milli, job.need.cpu_milli, 1000),
        ("jobs at a time", limit.jobs, holds.jobs, 1, 1),
    )
    for what, most, used, asked, unit in rows:
        if most is None or asked == 0:
            continue
        told = f"team {job.team} may hold {most / unit:g} {what}"
        if asked > most:
            return f"ExceedsMax: {told} and this job asks for {asked / unit:g}"
        if used + asked > most:
            return f"QuotaFull: {told}, {used / unit:g} are held, and this job asks for {asked / unit:g}"
    return None


def _fit(job: Waiting, rooms: Mapping[str, _Room], blocked: list[_Blocked]) -> tuple[_Room | None, str]:
    short: dict[str, frozenset[str]] = {}
    ahead: str | None = None
    for name, room in rooms.items():
        if job.pool not in ("", name) or not _could_hold(room.place, job.need):
            continue
        short[name] = room.lacks(job.need)
        if short[name]:
            continue
        holder = next((b for b in blocked if b.overtaken >= MOST_OVERTAKEN and _passes(b, job, name)), None)
        if holder is None:
            return room, ""
        ahead = ahead or holder.job.uid
    if ahead is not None:
        return None, f"ReservedFor: job {ahead} was passed {MOST_OVERTAKEN} times and is next"
    blocked.append(_Blocked(job, short, job.overtaken))
    kinds = " and ".join(sorted(set().union(*short.values())))
    return (
        None,
        f"CapacityFull: asks for {describe(job.need)}; too little {kinds} is free ({_free(rooms, short)})",
    )


def _free(rooms: Mapping[str, _Room], names: Mapping[str, frozenset[str]]) -> str:
    told = []
    for room in (rooms[name] for name in names):
        has = room.place.capacity
        cpus = f"{max(0, room.cpu_milli) / 1000:g} of {has.cpu_milli / 1000:g} CPUs"
        told.append(f"pool {room.place.name}: {cpus}, {max(0, room.gpus)} of {has.gpus} GPUs")
    return "; ".join(told)


def _pass(blocked: Sequence[_Blocked], job: Waiting, pool: str) -> None:
    for one in blocked:
        if _passes(one, job, pool):
            one.overtaken += 1


def _passes(blocked: _Blocked, job: Waiting, pool: str) -> bool:
    """Whether starting `job` there takes some of what the blocked one lacks there."""
    lacks = blocked.short.get(pool, frozenset())
    need = job.need
    return (
        ("cpu" in lacks and need.cpu_milli > 0)
        or ("gpu" in lacks and need.gpus > 0)
        or ("memory" in lacks and need.memory_mib > 0)
    )


def _could_hold(place: Place, need: Resources) -> bool:
    has = place.capacity
    return (
        need.cpu_milli <= has.cpu_milli
        and need.gpus <= has.gpus
        and need.memory_mib <= has.memory_mib
        and (not need.gpus or _same_kind(need.accelerator, has.accelerator))
    )


def _same_kind(asked: str, has: str) -> bool:
    """Variants of a kind (A100, A100-80GB) are taken for one another: what is here is known by kind alone."""
    return not asked or not has or asked.partition("-")[0] == has.partition("-")[0]


def _wake_at(snapshot: Snapshot, gate: Gate) -> datetime | None:
    times = [p.retry_time for p in snapshot.placed] + [w.retry_time for w in snapshot.waiting]
    times.append(gate.wake_at())
    return min((t for t in times if t is not None and t > snapshot.now), default=None)

"""What a decision depends on, and what it says. Values only.

Units: amounts are integers in thousandths (1 GPU is 1000, 1 core 1000, 1 MiB 1000, 1 job 1000); times are
milliseconds since the epoch; durations milliseconds; weights thousandths.

A **key** is `(flavor, resource)`. The flavor `*` stands for all flavors together: a job that takes 2 GPUs of
`a100` uses `("a100", "gpu")` and `("*", "gpu")`. Keys that no node of a tree names are not metered in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

Key = tuple[str, str]
Amounts = tuple[tuple[Key, int], ...]
ANY = "*"
UNIT = 1000


class Within(StrEnum):
    """Whom a job may evict among the jobs of its own node."""

    NEVER = "never"
    LOWER = "lower"
    LOWER_OR_NEWER = "lower_or_newer"


class Reclaim(StrEnum):
    """Whom a job may evict among those that borrow in other nodes."""

    NEVER = "never"
    LOWER = "lower"
    ANY = "any"


class Borrowing(StrEnum):
    """Whether a job that borrows itself may evict jobs of others that borrow more, where sharing is FAIR."""

    NEVER = "never"
    FAIR = "fair"


class Order(StrEnum):
    """Who of equal priority in a node goes first: the oldest, or who asks for the fewest GPUs."""

    OLDEST = "oldest"
    SMALLEST = "smallest"


class Stop(StrEnum):
    """HOLD: nothing new starts below the node; DRAIN: what runs there is stopped, too."""

    NONE = "none"
    HOLD = "hold"
    DRAIN = "drain"


class Sharing(StrEnum):
    """FAIR weighs dominant shares; PRIORITY only priorities and who is over nominal."""

    FAIR = "fair"
    PRIORITY = "priority"


class Overrun(StrEnum):
    """What an exhausted budget does.

    DENY_NEW: jobs that never ran do not start. DRAIN: no attempt starts. PREEMPT: what runs is stopped, too.
    """

    DENY_NEW = "deny_new"
    DRAIN = "drain"
    PREEMPT = "preempt"


class PoolKind(StrEnum):
    """FIXED: known machines. ELASTIC: as much as quota, budget and experience allow."""

    FIXED = "fixed"
    ELASTIC = "elastic"


@dataclass(frozen=True, slots=True)
class Quota:
    """Of one key at one node. None: no such limit. `most` holds for the subtree, whatever it could borrow."""

    nominal: int = 0
    borrow_limit: int | None = None
    lend_limit: int | None = None
    most: int | None = None


@dataclass(frozen=True, slots=True)
class Node:
    """One node of the quota tree; `parent` is empty for a root. Jobs may be charged to any node."""

    id: str
    parent: str = ""
    kind: str = "team"
    quotas: Mapping[Key, Quota] = field(default_factory=dict)
    weight: int = UNIT
    within: Within = Within.LOWER
    reclaim: Reclaim = Reclaim.ANY
    # Evict jobs of others while borrowing oneself: only those of lower priority, and at most this one.
    # None: never. Only where sharing is PRIORITY; with FAIR the shares say it.
    borrow_reclaim: int | None = None
    borrowing: Borrowing = Borrowing.FAIR
    order: Order = Order.OLDEST
    # What has run for less is not evicted for somebody else's sake.
    min_runtime: int = 0
    # For somebody else's sake a job is evicted right after it saved a checkpoint, or when it did not save
    # one (nor begin) for so long. 0: at any time.
    patience: int = 0
    stop: Stop = Stop.NONE
    max_pending: int | None = None
    max_gpus_per_job: int | None = None
    max_runtime: int | None = None


@dataclass(frozen=True, slots=True)
class Machine:
    """One node shape of a fixed pool, `count` times: `gpu`, `cpu`, `mem` ... in thousandths."""

    name: str
    capacity: Mapping[str, int]
    count: int = 1


@dataclass(frozen=True, slots=True)
class Pool:
    """Where attempts run. An elastic one has no machines."""

    name: str
    kind: PoolKind = PoolKind.FIXED
    machines: tuple[Machine, ...] = ()


@dataclass(frozen=True, slots=True)
class Flavor:
    """Accelerator kind x market x pool. An empty pool is not looked at: then quota alone decides."""

    name: str
    pool: str = ""
    accelerator: str = ""
    market: str = "on-demand"
    region: str = ""


@dataclass(frozen=True, slots=True)
class Circuit:
    """An elastic flavor said that it has no capacity: nothing goes there before `probe_at`, then one job."""

    flavor: str
    region: str = ""
    probe_at: int = 0
    probing: str = ""


@dataclass(frozen=True, slots=True)
class Budget:
    """What is left of a budget of the subtree `node` (or of one `user`, anywhere below `node`).

    `left` = balance - holds: of GPU-hours in GPU-milliseconds, of money in millionths. `rates`: by flavor,
    what one GPU takes of that in a millisecond, in thousandths; `""` is for flavors that are not named.
    """

    id: str
    node: str
    left: int
    user: str = ""
    unit: str = "gpu_hours"
    overrun: Overrun = Overrun.DENY_NEW
    safe: bool = False
    rates: Mapping[str, int] = field(default_factory=lambda: {"": UNIT})
    # What was not used yet: `left` and what running jobs hold ahead. None: as `left`. Above zero those go on.
    unused: int | None = None


@dataclass(frozen=True, slots=True)
class PriorityClass:
    """`longest_run`: no job of it may ask for more."""

    name: str
    value: int = 0
    preemptible: bool = True
    may_preempt: bool = True
    longest_run: int | None = None


@dataclass(frozen=True, slots=True)
class Reservation:
    """A window in which `amounts` are kept for the subtree `node`."""

    id: str
    node: str
    amounts: Amounts
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Option:
    """One way to run a job: a flavor, and all that the whole gang uses, by key."""

    flavor: str
    usage: Amounts


@dataclass(frozen=True, slots=True)
class JobRequest:
    """A job that wants to run. `options` in the order of preference; the gang is `ranks` x `per_rank`."""

    uid: str
    node: str
    options: tuple[Option, ...]
    user: str = ""
    priority: int = 0
    priority_class: str = ""
    create_time: int = 0
    ranks: int = 1
    per_rank: tuple[tuple[str, int], ...] = ()
    max_runtime: int | None = None
    # It comes before others of its class: a retry or a preempted one.
    requeued: bool = False
    # Not the first attempt: a budget's DENY_NEW lets it go on.
    attempted: bool = False
    # The next attempt comes no sooner.
    not_before: int = 0
    # Who holds it and why, in words; empty: nobody.
    held: str = ""
    # Jobs that have to end first; the caller leaves out those that have.
    waits_for: tuple[str, ...] = ()
    # Jobs that took what it lacked, since it was submitted.
    overtaken: int = 0


@dataclass(frozen=True, slots=True)
class Admitted:
    """A job that holds quota and machines. `machines`: (name, ranks there), empty where not looked at.

    `stopping`: it was told to end, and this is for whom (a job's uid, or `-` for nobody); until it is gone it
    holds what it has. `gone_at`: by when it will be.
    """

    request: JobRequest
    option: int = 0
    machines: tuple[tuple[str, int], ...] = ()
    admit_time: int = 0
    checkpoint_time: int | None = None
    stopping: str = ""
    gone_at: int = 0


@dataclass(frozen=True, slots=True)
class Hold:
    """The one bounded reservation of a pool: `uid` will start there by `start`; void after `until`."""

    uid: str
    flavor: str
    pool: str
    start: int
    until: int


@dataclass(frozen=True, slots=True)
class Policy:
    """How the engine behaves. Durations in milliseconds."""

    sharing: Sharing = Sharing.FAIR
    # FAIR: whether rule S2-b comes after rule S2-a (see `victims`).
    initial_share_rule: bool = True
    # After so long a gang inside its nominal quota gets a reservation (or after so many overtook it).
    reserve_after: int = 1_800_000
    most_overtaken: int = 16
    # A reservation is void after this, and the pool rests as long before the next one for the same job.
    reserve_bound: int = 86_400_000
    # For planning alone: how long a job of unknown length is taken to run.
    assumed_runtime: int = 86_400_000


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that a decision depends on, the time included. The order of entries has no influence.

    `use`: decayed use by (node, user), in GPU-milliseconds. `version`: of the quota tree, for the plan.
    """

    now: int
    nodes: tuple[Node, ...] = ()
    flavors: tuple[Flavor, ...] = ()
    pools: tuple[Pool, ...] = ()
    pending: tuple[JobRequest, ...] = ()
    admitted: tuple[Admitted, ...] = ()
    budgets: tuple[Budget, ...] = ()
    classes: tuple[PriorityClass, ...] = ()
    reservations: tuple[Reservation, ...] = ()
    circuits: tuple[Circuit, ...] = ()
    holds: tuple[Hold, ...] = ()
    # Jobs for which others were evicted, from then until they start: what was freed for them is theirs.
    claims: tuple[str, ...] = ()
    use: Mapping[tuple[str, str], int] = field(default_factory=dict)
    policy: Policy = Policy()
    version: int = 0


class Code(StrEnum):
    """Why a job waits: the closed set."""

    HELD = "Held"
    DEPENDENCY_WAIT = "DependencyWait"
    RETRY_WAIT = "WaitingForRetry"
    NO_MATCHING_FLAVOR = "NoMatchingFlavor"
    EXCEEDS_MAX = "ExceedsMax"
    BUDGET_EXHAUSTED = "BudgetExhausted"
    BUDGET_UNSAFE = "BudgetUnsafe"
    QUOTA_FULL = "QuotaFull"
    LENDING_LIMITED = "LendingLimited"
    FAIR_SHARE_BEHIND = "FairShareBehind"
    PRIORITY_BEHIND = "PriorityBehind"
    CAPACITY_FULL = "CapacityFull"
    GANG_FRAGMENTED = "GangFragmented"
    WAITING_FOR_VICTIMS = "WaitingForVictims"
    CIRCUIT_OPEN = "CapacityCircuitOpen"
    RESERVED_FOR = "ReservedFor"
    NOT_EVALUATED = "NotEvaluated"


# What a job waits for that others have: who waits long for it, starves.
CAN_STARVE = frozenset(
    {
        Code.QUOTA_FULL,
        Code.LENDING_LIMITED,
        Code.FAIR_SHARE_BEHIND,
        Code.PRIORITY_BEHIND,
        Code.CAPACITY_FULL,
        Code.GANG_FRAGMENTED,
        Code.WAITING_FOR_VICTIMS,
    }
)


class Why(StrEnum):
    """Why a running job is evicted."""

    WITHIN = "InNode"
    RECLAIM = "Reclaim"
    FAIR = "FairShare"
    RECLAIM_BORROWING = "ReclaimWhileBorrowing"
    BUDGET = "Budget"
    DRAIN = "Drain"


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a job waits, with its evidence; the same for all jobs of one shape at one node.

    `node`, `flavor`, `resource`: where it is stuck. `others`: jobs that it waits for. `until`: a time that is
    known to change it, or 0.
    """

    code: Code
    node: str = ""
    flavor: str = ""
    resource: str = ""
    requested: int = 0
    limit: int = 0
    used: int = 0
    others: tuple[str, ...] = ()
    until: int = 0
    note: str = ""

    def says(self, other: Reason) -> bool:
        """Whether the two say the same; how much is used changes all the time."""
        return self == other or replace(self, used=other.used) == other


@dataclass(frozen=True, slots=True)
class Admission:
    """Start this job now: with this option of its, on these machines."""

    uid: str
    option: int
    flavor: str
    pool: str
    machines: tuple[tuple[str, int], ...] = ()
    # Over the node's nominal quota after it.
    borrows: bool = False


@dataclass(frozen=True, slots=True)
class Preemption:
    """Tell the victim to end. `by`: the job that gets its place; empty for budget and drain."""

    uid: str
    why: Why
    by: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now. `reasons` by job uid, for every job that stays pending.

    `promises`: who starts when victims are gone, those of this plan and those that are still in their grace;
    the next plans will say so again, and admit them then. `holds` are all reservations from now on, old ones
    that go on included; so are `claims`. `overtaken`: new counts of those that were passed. `news`: the
    reasons that are not the engine's last ones. `wake_at`: when the passing of time alone may
    change the plan; None: never.
    """

    admissions: tuple[Admission, ...] = ()
    promises: tuple[Admission, ...] = ()
    preemptions: tuple[Preemption, ...] = ()
    holds: tuple[Hold, ...] = ()
    claims: tuple[str, ...] = ()
    reasons: Mapping[str, Reason] = field(default_factory=dict)
    news: Mapping[str, Reason] = field(default_factory=dict)
    overtaken: Mapping[str, int] = field(default_factory=dict)
    wake_at: int | None = None
    version: int = 0


def option(flavor: str, requests: Mapping[str, int]) -> Option:
    """What a gang that asks for `requests` in all uses with a flavor: of it, of all flavors, and one job."""
    usage = {(flavor, resource): amount for resource, amount in requests.items()}
    usage |= {(ANY, resource): amount for resource, amount in requests.items()}
    usage[(ANY, "jobs")] = UNIT
    return Option(flavor, tuple(sorted(usage.items())))

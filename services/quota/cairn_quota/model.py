"""The values that quota decides with: no wire types, no rows, no clock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum


class ReservationState(IntEnum):
    """Numbers as in cairn.quota.v1.Reservation.State."""

    HELD = 1
    SETTLED = 2
    RELEASED = 3


class Scope(IntEnum):
    """Numbers as in cairn.quota.v1.Scope."""

    READ = 1
    WRITE = 2
    ADMIN = 3
    RUN = 4


class Role(IntEnum):
    """Numbers as in cairn.quota.v1.Role; a higher one may do all that a lower one may."""

    VIEWER = 1
    MEMBER = 2
    ADMIN = 3
    OWNER = 4


class JobPhase(IntEnum):
    """What matters of a job's state to what it holds."""

    QUEUED = 1
    PLACED = 2
    FINAL = 3


@dataclass(frozen=True, slots=True)
class Amounts:
    """A quantity of each resource, never negative."""

    gpus: int = 0
    cpu_milli: int = 0
    jobs: int = 0

    def __add__(self, other: Amounts) -> Amounts:
        return Amounts(self.gpus + other.gpus, self.cpu_milli + other.cpu_milli, self.jobs + other.jobs)

    def __sub__(self, other: Amounts) -> Amounts:
        return Amounts(self.gpus - other.gpus, self.cpu_milli - other.cpu_milli, self.jobs - other.jobs)


@dataclass(frozen=True, slots=True)
class Limits:
    """The most that a team may hold at a time; None: no limit."""

    gpus: int | None = None
    cpu_milli: int | None = None
    jobs: int | None = None


@dataclass(frozen=True, slots=True)
class Team:
    """A team with its limits and what its reservations hold now."""

    id: str
    uid: str
    display_name: str
    create_time: datetime
    update_time: datetime
    revision: int
    limits: Limits
    held: Amounts

    @property
    def etag(self) -> str:
        """What a writer gives back to say which version it has read."""
        return str(self.revision)


@dataclass(frozen=True, slots=True)
class Reservation:
    """What one admission of a job holds, or held."""

    team: str
    id: str
    uid: str
    job_uid: str
    admission: int
    amounts: Amounts
    state: ReservationState
    create_time: datetime
    ask_time: datetime
    end_time: datetime | None
    # Where it counts in the quota tree, and as what.
    node: str = ""
    flavor: str = ""
    # All that it holds, by resource, in thousandths of its unit; `amounts` is what teams have limits on.
    resources: Mapping[str, int] = field(default_factory=dict)
    # A user's id; empty where it was not said.
    user: str = ""
    project: str = ""
    # Micro-money for an hour of the whole of it.
    price: int = 0
    # Milliseconds; None: no limit.
    max_runtime: int | None = None
    priority_class: str = ""


@dataclass(frozen=True, slots=True)
class AttemptTimes:
    """One try of a job; a time is None while it has not come."""

    uid: str
    start_time: datetime | None
    end_time: datetime | None
    # Micro-money for an hour of it; 0: not known.
    price: int = 0


@dataclass(frozen=True, slots=True)
class JobView:
    """One version of a job as the scheduler told it: what metering and settling need of it."""

    team: str
    uid: str
    revision: int
    phase: JobPhase
    admissions: int
    creator: str
    gpus: int
    """GPUs of all ranks together."""
    cpu_milli: int
    """Thousandths of a core of all ranks together."""
    attempts: tuple[AttemptTimes, ...]


@dataclass(frozen=True, slots=True)
class Meter:
    """Up to when an attempt was charged to the ledger. `end` is None while it runs."""

    attempt_uid: str
    reservation_uid: str
    start: datetime
    end: datetime | None
    until: datetime
    # Micro-money for an hour of it, at which it was charged; 0: by its hold.
    price: int = 0


@dataclass(frozen=True, slots=True)
class UsageEntry:
    """What one attempt used. Append-only; integers, so that sums do not depend on their order."""

    attempt_uid: str
    team: str
    job_uid: str
    creator: str
    start_time: datetime
    end_time: datetime
    gpu_millis: int
    cpu_micros: int


@dataclass(frozen=True, slots=True)
class Usage:
    """Sums over usage entries."""

    gpu_millis: int
    cpu_micros: int
    attempts: int


@dataclass(frozen=True, slots=True)
class Token:
    """A token without its secret."""

    uid: str
    display_name: str
    subject: str
    scope: Scope
    team: str
    run_uid: str
    attempt_uid: str
    create_time: datetime
    expire_time: datetime | None
    revoke_time: datetime | None
    # Opened by a password: what is made with it may outlive it.
    session: bool = False


@dataclass(frozen=True, slots=True)
class NewToken:
    """A token to make: what is stored of it."""

    token: Token
    hash: str
    creator: str
    request_id: str

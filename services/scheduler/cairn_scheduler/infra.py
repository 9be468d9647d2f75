"""Where jobs can run, as values: what is there, what it costs, and what is wrong with it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class InfraState(StrEnum):
    """Whether jobs can be sent there."""

    ENABLED = "ENABLED"
    # Not set up: credentials, packages or a configuration are missing.
    DISABLED = "DISABLED"
    # Set up, but it does not answer.
    UNREACHABLE = "UNREACHABLE"


@dataclass(frozen=True, slots=True)
class Accelerator:
    """A kind of accelerator. None: not known.

    `counts`: how many of it one node may be asked for. Prices are of one of them for an hour, in the cheapest
    offer of the catalog.
    """

    kind: str
    counts: tuple[int, ...] = ()
    total: int | None = None
    free: int | None = None
    price: float | None = None
    spot_price: float | None = None


@dataclass(frozen=True, slots=True)
class Infra:
    """A place that `resources.infra` can name; `problem` and `remedy` are one line each."""

    name: str
    state: InfraState
    problem: str = ""
    remedy: str = ""
    accelerators: tuple[Accelerator, ...] = ()
    nodes: int | None = None
    # Thousandths of a core.
    cpu_milli: int | None = None
    free_cpu_milli: int | None = None


@dataclass(frozen=True, slots=True)
class Survey:
    """All of them. `complete`: nothing is still being asked for."""

    infras: tuple[Infra, ...]
    complete: bool = True


@dataclass(frozen=True, slots=True)
class Placement:
    """One way to run a task. `price`: of all its nodes for an hour; None: not known."""

    infra: str
    instance: str = ""
    accelerators: str = ""
    cpus: float | None = None
    memory_gib: float | None = None
    price: float | None = None
    spot: bool = False


class NoPlacement(Exception):
    """It could run nowhere, as things are. The message says why, and what to do.

    `passing`: that may change by itself.
    """

    def __init__(self, message: str, *, passing: bool = False) -> None:
        super().__init__(message)
        self.passing = passing

"""The seam to where attempts run: what the loop asks of a place, and what it hears from it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from enum import Enum
from typing import Protocol

from cairn_scheduler.causes import Evidence
from cairn_scheduler.infra import Placement, Survey
from cairn_scheduler.model import Code, Resources, Spec


@dataclass(frozen=True, slots=True)
class Order:
    """What to start. `token` is the run token's secret; it never shows in a repr."""

    team: str
    run_uid: str
    attempt_uid: str
    attempt: int
    display_name: str
    spec: Spec
    code: Code
    token: str = field(repr=False)
    # Values of `spec.secrets`, for the attempt's environment alone.
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    # Who submitted it, such as users/ada.
    creator: str = ""
    # The ways that it may go on SkyPilot (circuits.py); none: all that its task names.
    circuits: tuple[str, ...] = ()

    def launch(self, *, url: str, bus_url: str) -> dict[str, object]:
        """What every runner is told, wherever it runs: the common part of launch.json."""
        spec, code = self.spec, self.code
        return {
            "team": self.team,
            "run_uid": self.run_uid,
            "attempt_uid": self.attempt_uid,
            "attempt": self.attempt,
            "display_name": self.display_name,
            "setup": spec.setup,
            "run": spec.run,
            "envs": spec.envs,
            "params": spec.params,
            "num_nodes": spec.num_nodes,
            "cpu_milli": spec.resources.cpu_milli,
            "max_runtime": spec.max_runtime,
            "grace": spec.grace,
            "environment": asdict(spec.environment) if spec.environment else None,
            # Their names, so that their values can be kept out of what is recorded.
            "secrets": list(spec.secrets),
            "mounts": [asdict(mount) for mount in spec.mounts],
            "origin": spec.origin.launch() if spec.origin else None,
            "code": {"digest": code.digest, "size": code.size} if code.digest else None,
            "url": url,
            "bus_url": bus_url,
        }


@dataclass(frozen=True, slots=True)
class Started:
    """The command of an attempt runs."""

    attempt_uid: str
    start_time: datetime
    pids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Ended:
    """No command of an attempt runs any more, and this is how it ended."""

    attempt_uid: str
    evidence: Evidence


@dataclass(frozen=True, slots=True)
class Priced:
    """What an hour of an attempt's machines costs: millionths of a US dollar, above zero."""

    attempt_uid: str
    price: int


@dataclass(frozen=True, slots=True)
class Quiet:
    """No process works for an ended attempt any more: its remains can be looked at."""

    attempt_uid: str


@dataclass(frozen=True, slots=True)
class Stepped:
    """On the way to an attempt's machines the place said something. `number`: from 1, in its order."""

    attempt_uid: str
    number: int
    time: datetime
    text: str


Report = Started | Priced | Ended | Quiet | Stepped


class Remains(Enum):
    """What an ended attempt left behind."""

    # Somebody still ships what it wrote.
    BUSY = "busy"
    # Something is left to be shipped and nobody does.
    UNSHIPPED = "unshipped"
    # All is shipped.
    SHIPPED = "shipped"


@dataclass(frozen=True, slots=True)
class Held:
    """What exists at a place for one attempt: a cluster there, or processes here."""

    attempt_uid: str
    # As the place names it.
    name: str
    # As the place tells it, such as UP.
    status: str = ""
    create_time: datetime | None = None
    # So far, in US dollars; None: not known.
    cost: float | None = None
    # The attempt has ended, and this is being taken away.
    leaving: bool = False


class LaunchFailed(Exception):
    """The place cannot start this attempt; the message says why. Nothing of it runs."""


class Cluster(Protocol):
    """A place to run attempts. Attempts outlive the scheduler and are found again by `list`."""

    @property
    def name(self) -> str:
        """The pool's id."""
        ...

    def capacity(self) -> Resources:
        """All that it has, free or not."""
        ...

    async def survey(self, *, refresh: bool) -> Survey:
        """What it reaches, with what is wrong there. What was asked a moment ago is not asked again, unless
        `refresh`. Answers within 20 s."""
        ...

    async def placements(self, spec: Spec) -> Sequence[Placement]:
        """Where an attempt would go, best first. Raises NoPlacement, Unavailable."""
        ...

    async def launch(self, order: Order) -> None:
        """Starts an attempt once, however often this is called for it. Raises LaunchFailed."""
        ...

    async def stop(self, attempt_uid: str, *, notice: str = "") -> None:
        """Ends an attempt: SIGTERM, its grace, SIGKILL. The end is reported like any other.

        `notice` is told to the program before: `preempted`, where it will go on from its checkpoint.
        """
        ...

    async def list(self) -> Collection[str]:
        """The attempts that were started here and are not tidied away: launching them again is not needed."""
        ...

    def reports(self) -> AsyncIterator[Report]:
        """What happens, from the moment this is iterated, each at least once; after a restart of the
        scheduler the reports on attempts that are not tidied away come again."""
        ...

    async def remains(self, attempt_uid: str) -> Remains:
        """What an ended attempt left."""
        ...

    async def ship(self, attempt_uid: str, *, token: str) -> None:
        """Starts shipping what an ended attempt left; `Quiet` is reported when that is over."""
        ...

    async def tidy(self, attempt_uid: str) -> None:
        """Removes what an ended attempt does not need any more; it is not listed after that."""
        ...

    async def inventory(self) -> Sequence[Held]:
        """What really exists there of this platform's, by the place's own account. Raises Unavailable."""
        ...

    async def discard(self, attempt_uid: str) -> None:
        """Begins to take away what exists there for an attempt that does not live."""
        ...

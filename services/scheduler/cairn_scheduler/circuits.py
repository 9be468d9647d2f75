"""Circuits of "no room": what SkyPilot had no machine for is not asked for again at once by every job. Pure.

A circuit stands for one way to meet a request: an infra, kinds of accelerators, spot or not. It opens when an
attempt ends for want of room, lets one job through after 30, 60 ... 300 s, and closes when that job's command
runs. Its state is derived from the attempts of the last hours, so that it survives restarts as they do.
Whoever asks for less than what was refused is not held up: it may still fit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from cairn_scheduler import elsewhere
from cairn_scheduler.model import Resources

# An attempt that is older tells nothing of today.
MEMORY = timedelta(hours=2)
_FIRST = 30.0
_LONGEST = 300.0
_MOST = 50


@dataclass(frozen=True, slots=True)
class Tried:
    """One attempt. `need`: of all its ranks; `circuits`: the ways that it was free to go."""

    job: str
    circuits: tuple[str, ...]
    need: Resources
    create_time: datetime
    start_time: datetime | None = None
    # When it ended for want of room; None: it did not.
    refused_time: datetime | None = None
    launching: bool = False


@dataclass(frozen=True, slots=True)
class Circuit:
    """One that is not closed. `least`: the smallest request that found no room."""

    name: str
    failures: int
    probe_at: datetime
    least: Resources
    # The job that tries it just now; empty: none.
    probing: str = ""

    def holds(self, need: Resources) -> bool:
        """Whether such a request would find no room either."""
        return need.gpus >= self.least.gpus and need.cpu_milli >= self.least.cpu_milli


@dataclass(slots=True)
class _Fold:
    """A circuit while its history is read."""

    failures: int = 0
    opened: datetime | None = None
    least: Resources = field(default_factory=Resources)


def names(resources: Mapping[str, object]) -> tuple[str, ...]:
    """The circuits that a request for these can go through, one for each of its choices."""
    return tuple(dict.fromkeys(name_of(choice.fields) for choice in elsewhere.choices(resources)))[:_MOST]


def name_of(fields: Mapping[str, object]) -> str:
    """The circuit of one choice: `slurm/lab H100`, `aws/us-east-1 A100 spot`."""
    place = str(fields.get("infra") or fields.get("cloud") or "any").strip().lower()
    region = str(fields.get("region") or "").strip()
    kinds = fields.get("accelerators")
    listed: Iterable[object] = (
        [kinds] if isinstance(kinds, str) else kinds if isinstance(kinds, list | dict) else ()
    )
    found = sorted({str(kind).partition(":")[0].strip().upper() for kind in listed})
    words = [f"{place}/{region}" if region else place, "|".join(found) or "CPU"]
    return " ".join([*words, "spot"] if fields.get("use_spot") is True else words)[:300]


def narrowed(resources: dict[str, Any], ways: Sequence[str]) -> dict[str, Any]:
    """The same request without the choices that go other ways; as it is where none would be left."""
    plain = {name: value for name, value in resources.items() if name not in elsewhere.CHOICES}
    kept: dict[str, Any] = {}
    for block in elsewhere.CHOICES:
        entries = [one for one in resources.get(block) or [] if isinstance(one, dict)]
        if left := [one for one in entries if name_of({**plain, **one}) in ways]:
            kept[block] = left
    return {**plain, **kept} if kept else resources


def derive(tries: Sequence[Tried]) -> dict[str, Circuit]:
    """Those that are not closed, from all attempts of the last hours."""
    found: dict[str, _Fold] = {}
    probing: dict[str, Tried] = {}
    moments = [(one.start_time, one, False) for one in tries if one.start_time is not None]
    moments += [(one.refused_time, one, True) for one in tries if one.refused_time is not None]
    for time, one, refused in sorted(moments, key=lambda moment: (moment[0], moment[1].job)):
        for name in one.circuits:
            fold = found.setdefault(name, _Fold())
            _refuse(fold, one, time) if refused else _serve(fold, one)
    for one in tries:
        if one.launching:
            probing |= {name: one for name in one.circuits if _is_probe(found.get(name), one)}
    return {
        name: Circuit(
            name=name,
            failures=fold.failures,
            probe_at=fold.opened + back_off(fold.failures),
            least=fold.least,
            probing=probing[name].job if name in probing else "",
        )
        for name, fold in sorted(found.items())
        if fold.opened is not None
    }


def back_off(failures: int) -> timedelta:
    """How long nobody tries after so many refusals in a row."""
    return timedelta(seconds=min(_FIRST * 2 ** min(failures - 1, 10), _LONGEST))


class Gate:
    """The circuits while one plan is made: who may pass, and who is kept back with which words."""

    def __init__(self, circuits: Mapping[str, Circuit], now: datetime) -> None:
        self._circuits = dict(circuits)
        self._now = now

    def keeps(self, names: Sequence[str], need: Resources) -> str | None:
        """The reason for which such a job waits; None: one of its ways is free."""
        if not names or self.open_ways(names, need):
            return None
        shut = [self._circuits[name] for name in names]
        first = min(shut, key=lambda one: (bool(one.probing), one.probe_at, one.name))
        times = "once" if first.failures == 1 else f"{first.failures} times in a row"
        then = (
            f"job {first.probing} tries it just now"
            if first.probing
            else f"it is tried again at {first.probe_at:%H:%M:%S} UTC"
        )
        return f"CapacityCircuitOpen: there was no room for {first.name} {times}; {then}"

    def open_ways(self, names: Sequence[str], need: Resources) -> tuple[str, ...]:
        """The ways that such a job may go: those that are free, else those that are to be tried now."""
        free = tuple(name for name in names if not self._shut(name, need))
        if free:
            return free
        return tuple(name for name in names if self._due(self._circuits[name]))

    def passed(self, names: Sequence[str], need: Resources, uid: str) -> None:
        """Such a job goes: where that is a trial, nobody else tries the same."""
        for name in self.open_ways(names, need):
            if self._shut(name, need):
                self._circuits[name] = replace(self._circuits[name], probing=uid)

    def wake_at(self) -> datetime | None:
        """When the next of them is to be tried."""
        times = [one.probe_at for one in self._circuits.values() if one.probe_at > self._now]
        return min(times, default=None)

    def _shut(self, name: str, need: Resources) -> bool:
        circuit = self._circuits.get(name)
        return circuit is not None and circuit.holds(need)

    def _due(self, circuit: Circuit) -> bool:
        return circuit.probe_at <= self._now and not circuit.probing


def kept_back(gate: Gate, asking: Iterable[tuple[str, Sequence[str], Resources]]) -> dict[str, str]:
    """Why jobs are kept back, by uid, of those that ask (uid, ways, need) in the queue's order.

    Of those that would try an open circuit again the first may.
    """
    kept = {}
    for uid, ways, need in asking:
        reason = gate.keeps(ways, need)
        if reason is None:
            gate.passed(ways, need, uid)
        else:
            kept[uid] = reason
    return kept


def _refuse(fold: _Fold, one: Tried, time: datetime) -> None:
    if fold.opened is None:
        fold.failures, fold.least = 1, one.need
    else:
        # Those that were on their way when it opened are part of the same want of room.
        fold.failures += one.create_time >= fold.opened
        if _at_most(one.need, fold.least):
            fold.least = one.need
    fold.opened = time


def _serve(fold: _Fold, one: Tried) -> None:
    """Room for as much as was refused closes it; room for less says nothing."""
    if fold.opened is not None and one.create_time >= fold.opened and _at_most(fold.least, one.need):
        fold.failures, fold.opened = 0, None


def _is_probe(fold: _Fold | None, one: Tried) -> bool:
    return fold is not None and fold.opened is not None and one.create_time >= fold.opened


def _at_most(some: Resources, other: Resources) -> bool:
    return some.gpus <= other.gpus and some.cpu_milli <= other.cpu_milli

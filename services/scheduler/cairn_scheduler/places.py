"""Places to run, and what each could ever hold. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cairn_scheduler.model import Resources


@dataclass(frozen=True, slots=True)
class Place:
    """A pool: all that it has, free or not."""

    name: str
    capacity: Resources


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

"""Following metrics: what is new of them since a cursor, and a cursor to go on from.

The cursor says of each metric how far it went and how often it was changed before that. So what was only
added to is answered by its new points, and what was changed in between is named, to be read anew.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from cairn_common.db import Database
from cairn_common.errors import InvalidArgument, Reason
from cairn_tracker.clickhouse import ClickHouse
from cairn_tracker.drawing import Series
from cairn_tracker.series_in_store import STEPS
from cairn_tracker.store import tails
from cairn_tracker.store.tails import Extent

MOST_SERIES: Final = 1_000
# Of one answer. Whoever is further behind than that reads buckets.
MOST_POINTS: Final = 20_000
_HEAD: Final = struct.Struct("<B7s")
_ENTRY: Final = struct.Struct("<8sqI")
_VERSION: Final = 1
_NO_FLOATS: Final = np.empty(0, np.float64)

# `names`, pairs of run and key, go with `steps`: the last one that is known, and the last one there is.
_NEW = f"""
SELECT run, key, step, time, value FROM ({STEPS})
WHERE step > {{afters:Array(Int64)}}[indexOf({{names:Array(String)}}, concat(run, '/', key)) AS i]
  AND step <= {{lasts:Array(Int64)}}[i]
ORDER BY run, key, step
LIMIT {{most:UInt32}}
"""  # noqa: S608


@dataclass(frozen=True, slots=True)
class Tail:
    """What is new. Of the series there are `steps`, `times` and `last` alone."""

    series: Sequence[Series]
    # Runs and keys of what is to be read anew.
    changed: Sequence[tuple[str, str]]
    cursor: str


async def tail(
    db: Database, store: ClickHouse, team: str, *, runs: Sequence[str], keys: Sequence[str], cursor: str
) -> Tail:
    """What is new since a cursor; without one nothing, but a cursor.

    Raises InvalidArgument for more than `MOST_SERIES` series, and for a cursor of something else
    (CURSOR_INVALID).
    """
    scope = hashlib.sha256(repr((team, sorted(runs), sorted(keys))).encode()).digest()[:7]
    known = _decode(cursor, scope) if cursor else None
    there = await tails.extents(db, team, runs=runs, keys=keys, limit=MOST_SERIES + 1)
    if len(there) > MOST_SERIES:
        raise InvalidArgument(
            f"more than {MOST_SERIES:,} series: ask for fewer runs or name the keys",
            reason=Reason.FIELD_INVALID,
        )
    after = _encode(there, scope)
    if known is None:
        return Tail([], [], after)
    fresh, changed = _compared(there, known)
    found = await _points(store, team, fresh)
    if found is None:
        return Tail([], [*changed, *((each.run, each.key) for each, _ in fresh)], after)
    return Tail(found, changed, after)


def _compared(
    there: Sequence[Extent], known: Mapping[bytes, tuple[int, int]]
) -> tuple[list[tuple[Extent, int]], list[tuple[str, str]]]:
    """Metrics with new points, each with the last step that is known; and those to be read anew."""
    fresh: list[tuple[Extent, int]] = []
    changed: list[tuple[str, str]] = []
    for each in there:
        last_step, revisits = known.get(_name(each), (-1, each.revisits))
        if revisits != each.revisits & 0xFFFFFFFF:
            changed.append((each.run, each.key))
        elif each.last_step > last_step:
            fresh.append((each, last_step))
    return fresh, changed


async def _points(store: ClickHouse, team: str, fresh: Sequence[tuple[Extent, int]]) -> list[Series] | None:
    """The new points; None where they are too many for one answer."""
    if not fresh:
        return []
    parameters = {
        "team": team,
        "runs": sorted({each.run for each, _ in fresh}),
        "pairs": [(each.run, each.key) for each, _ in fresh],
        "first": min(known for _, known in fresh) + 1,
        "end": max(each.last_step for each, _ in fresh) + 1,
        "names": [f"{each.run}/{each.key}" for each, _ in fresh],
        "afters": [known for _, known in fresh],
        "lasts": [each.last_step for each, _ in fresh],
        "most": MOST_POINTS + 1,
    }
    rows = list(zip(*await store.query(_NEW, parameters), strict=True))
    if len(rows) > MOST_POINTS:
        return None
    found: dict[tuple[str, str], list[tuple[int, int, float]]] = {}
    for run, key, step, time, value in rows:
        found.setdefault((run, key), []).append((step, time, value))
    return [
        Series(
            run=run, key=key, exact=True, steps=np.array([step for step, _, _ in points], np.int64),
            times=np.array([time / 1e6 for _, time, _ in points]),
            last=np.array([value for _, _, value in points]),
            min=_NO_FLOATS, max=_NO_FLOATS, counts=np.empty(0, np.int64),
        )
        for (run, key), points in found.items()
    ]  # fmt: skip


def _name(extent: Extent) -> bytes:
    return hashlib.blake2b(f"{extent.run}/{extent.key}".encode(), digest_size=8).digest()


def _encode(there: Sequence[Extent], scope: bytes) -> str:
    entries = (_ENTRY.pack(_name(each), each.last_step, each.revisits & 0xFFFFFFFF) for each in there)
    return base64.urlsafe_b64encode(_HEAD.pack(_VERSION, scope) + b"".join(entries)).decode().rstrip("=")


def _decode(cursor: str, scope: bytes) -> dict[bytes, tuple[int, int]]:
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        if _HEAD.unpack_from(raw) != (_VERSION, scope):
            raise ValueError("of other metrics")
        entries = _ENTRY.iter_unpack(raw[_HEAD.size :])
        return {name: (last_step, revisits) for name, last_step, revisits in entries}
    except (ValueError, binascii.Error, struct.error):
        raise InvalidArgument(
            "cursor is not one that this call gave for these runs and keys; begin again without one",
            reason=Reason.CURSOR_INVALID,
        ) from None

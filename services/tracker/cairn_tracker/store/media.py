"""Histograms, tables and images of runs, in PostgreSQL."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from cairn_tracker.batch import RunKey
from cairn_tracker.media import Item, Media, MediaKey
from cairn_tracker.store import blobs
from cairn_tracker.store.runs import Reads

#: Places (of a key and step) that a run can have.
MOST_PLACES: Final = 100_000

_COUNTS = """
SELECT m.team, m.run_uid, sum(m.count)::bigint AS places FROM media_keys m
JOIN unnest($1::text[], $2::text[]) AS k (team, uid) ON m.team = k.team AND m.run_uid = k.uid
GROUP BY m.team, m.run_uid
"""

# `xmax = 0`: the row was not there before.
_ADD = """
INSERT INTO media AS m (team, run_uid, key, step, attempt, time, items, data)
SELECT team, run_uid, key, step, attempt, time, items, data
FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::integer[], $6::timestamptz[],
    $7::jsonb[], $8::bytea[])
    AS k (team, run_uid, key, step, attempt, time, items, data)
ON CONFLICT (team, run_uid, key, step) DO UPDATE SET attempt = EXCLUDED.attempt, time = EXCLUDED.time,
    items = EXCLUDED.items, data = EXCLUDED.data
WHERE (m.attempt, m.time) <= (EXCLUDED.attempt, EXCLUDED.time)
RETURNING m.team, m.run_uid, m.key, m.step, (m.xmax = 0) AS is_new
"""

_COUNT = """
INSERT INTO media_keys AS m (team, run_uid, key, count, last_step)
SELECT team, run_uid, key, count, last_step
FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::bigint[])
    AS k (team, run_uid, key, count, last_step)
ON CONFLICT (team, run_uid, key) DO UPDATE SET count = m.count + EXCLUDED.count,
    last_step = greatest(m.last_step, EXCLUDED.last_step)
"""

_COLUMNS = "m.team, m.run_uid, m.key, m.step, m.attempt, m.time, m.items, m.data"

_LIST = f"""
SELECT {_COLUMNS}, 0 AS count FROM media m
WHERE m.team = $1 AND m.run_uid = $2 AND ($3 = '' OR m.key = $3) AND m.step >= $4 AND m.step < $5
    AND (m.key, m.step) > ($6, $7)
ORDER BY m.key, m.step LIMIT $8
"""  # noqa: S608

_LATEST = f"""
SELECT {_COLUMNS}, k.count FROM media_keys k
JOIN media m ON (m.team, m.run_uid, m.key, m.step) = (k.team, k.run_uid, k.key, k.last_step)
WHERE k.team = $1 AND k.run_uid = $2 AND ($3 = '' OR k.key = $3) AND k.key > $4
ORDER BY k.key LIMIT $5
"""  # noqa: S608


@dataclass(frozen=True, slots=True)
class Stored:
    """Media, and how many steps their key has (0: not asked for)."""

    media: Media
    count: int


@dataclass(frozen=True, slots=True)
class Wanted:
    """Media of a run: of one key (empty: all), from step `first` on, before `end`, behind `after`."""

    run: RunKey
    key: str
    first: int
    end: int
    after: tuple[str, int] = ("", -1)


async def counts(db: Reads, runs: Collection[RunKey]) -> dict[RunKey, int]:
    """How many places these runs have; runs without any are left out."""
    if not runs:
        return {}
    rows = await db.fetch(_COUNTS, [run.team for run in runs], [run.uid for run in runs])
    return {RunKey(row["team"], row["run_uid"]): row["places"] for row in rows}


async def add(conn: Any, media: Mapping[MediaKey, Media]) -> None:
    """Writes what counts of each place, and that the run keeps its bytes; older ones change nothing."""
    if not media:
        return
    rows = [_row(one) for one in media.values()]
    for one in media.values():
        digests = {item.digest for item in one.items if not item.data}
        await blobs.hold(conn, one.place.team, digests, holder=one.place.run)
    changed = await conn.fetch(_ADD, *map(list, zip(*rows, strict=True)))
    new: dict[tuple[str, str, str], list[int]] = {}
    for row in changed:
        if row["is_new"]:
            new.setdefault((row["team"], row["run_uid"], row["key"]), []).append(row["step"])
    if new:
        totals = [(*key, len(steps), max(steps)) for key, steps in sorted(new.items())]
        await conn.execute(_COUNT, *map(list, zip(*totals, strict=True)))


async def listed(db: Reads, wanted: Wanted, *, limit: int) -> list[Stored]:
    """By key and step."""
    where = (wanted.run.team, wanted.run.uid, wanted.key, wanted.first, wanted.end)
    return _found(await db.fetch(_LIST, *where, *wanted.after, limit))


async def latest(db: Reads, wanted: Wanted, *, limit: int) -> list[Stored]:
    """Of each key the highest step, by key."""
    where = (wanted.run.team, wanted.run.uid, wanted.key, wanted.after[0])
    return _found(await db.fetch(_LATEST, *where, limit))


def _found(rows: Iterable[Any]) -> list[Stored]:
    return [Stored(_media(row), row["count"]) for row in rows]


def _row(media: Media) -> tuple[Any, ...]:
    facts = [
        {
            "kind": item.kind, "media_type": item.media_type, "size": item.size, "digest": item.digest,
            "inside": bool(item.data), "caption": item.caption, "width": item.width, "height": item.height,
            "rows": item.rows,
        }
        for item in media.items
    ]  # fmt: skip
    data = b"".join(item.data for item in media.items)
    return (*media.place, media.attempt, media.time, json.dumps(facts), data)


def _media(row: Any) -> Media:
    place = MediaKey(row["team"], row["run_uid"], row["key"], row["step"])
    return Media(place, row["attempt"], row["time"], _items(json.loads(row["items"]), row["data"]))


def _items(facts: Sequence[dict[str, Any]], data: bytes) -> list[Item]:
    items = []
    start = 0
    for told in facts:
        inside = told.pop("inside")
        item = Item(**told)
        if inside:
            item = replace(item, data=data[start : start + item.size])
            start += item.size
        items.append(item)
    return items

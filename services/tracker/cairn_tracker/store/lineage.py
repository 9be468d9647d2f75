"""What versions and runs come from, and what came of them, over any number of steps, in PostgreSQL.

Thousands of nodes are one answer: they come as columns, one row of arrays a query.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from cairn_tracker.store.runs import Reads

# Whether it is a run, and its uid: a run and a version may have one uid.
Key: TypeAlias = tuple[bool, str]
RUN, VERSION = True, False


@dataclass(frozen=True, slots=True)
class Versions:
    """Columns of versions: where each stands among the nodes, the run that made it (or ''), and what is shown
    of it. Times in seconds."""

    places: Sequence[int]
    makers: Sequence[str]
    artifacts: Sequence[str]
    numbers: Sequence[int]
    kinds: Sequence[int]
    steps: Sequence[int | None]
    times: Sequence[int]
    deleted: Sequence[bool]


@dataclass(frozen=True, slots=True)
class Runs:
    """Columns of runs, as of versions; and the run that each was made from."""

    places: Sequence[int]
    origins: Sequence[str | None]
    names: Sequence[str]
    states: Sequence[int]
    times: Sequence[int]
    codes: Sequence[str]
    commits: Sequence[str]


# What a node comes from: (is a run, uid).
_UP = """
    SELECT true AS run, v.run_uid AS uid
    FROM versions v WHERE NOT n.run AND v.uid = n.uid AND v.team = $1 AND v.run_uid <> ''
    UNION ALL SELECT false, s.source_uid FROM sources s WHERE NOT n.run AND s.version_uid = n.uid
    UNION ALL SELECT false, u.version_uid FROM uses u WHERE n.run AND u.team = $1 AND u.run_uid = n.uid
    UNION ALL SELECT true, r.origin ->> 'run'
    FROM runs r WHERE n.run AND r.team = $1 AND r.uid = n.uid AND r.origin <> '{}'
"""
# What came of it.
_DOWN = """
    SELECT true AS run, u.run_uid AS uid
    FROM uses u WHERE NOT n.run AND u.version_uid = n.uid AND u.team = $1
    UNION ALL SELECT false, s.version_uid FROM sources s WHERE NOT n.run AND s.source_uid = n.uid
    UNION ALL SELECT false, v.uid
    FROM versions v WHERE n.run AND v.team = $1 AND v.run_uid = n.uid AND v.run_uid <> ''
    UNION ALL SELECT true, r.uid
    FROM runs r WHERE n.run AND r.team = $1 AND r.origin ->> 'run' = n.uid AND r.origin <> '{}'
"""
# Level by level: the nearest come first.
_REACHED = """
WITH RECURSIVE reached (run, uid) AS (
    SELECT $2::boolean, $3::text
    UNION
    SELECT f.run, f.uid FROM reached n JOIN LATERAL ({step}) f ON true
)
SELECT array_agg(run) AS runs, array_agg(uid) AS uids
FROM (SELECT run, uid FROM reached LIMIT $4) found
"""
# Who made a version, and from which run one was made, is told with them: here are the other edges.
_READS = """
SELECT array_agg(n.place::integer) AS places, array_agg(u.{far}) AS uids
FROM unnest($2::text[]) WITH ORDINALITY AS n (uid, place) JOIN uses u ON u.team = $1 AND u.{near} = n.uid
"""
_SOURCES = """
SELECT array_agg(n.place::integer) AS places, array_agg(s.{far}) AS uids
FROM unnest($1::text[]) WITH ORDINALITY AS n (uid, place) JOIN sources s ON s.{near} = n.uid
"""
_VERSIONS = """
SELECT array_agg(n.place::integer) AS places, array_agg(v.run_uid) AS makers,
    array_agg(v.artifact) AS artifacts, array_agg(v.number) AS numbers, array_agg(v.kind) AS kinds,
    array_agg(v.step) AS steps, array_agg(extract(epoch FROM v.create_time)::bigint) AS times,
    array_agg(v.delete_time IS NOT NULL) AS deleted
FROM unnest($2::text[]) WITH ORDINALITY AS n (uid, place) JOIN versions v ON v.uid = n.uid
WHERE v.team = $1
"""
_RUNS = """
SELECT array_agg(n.place::integer) AS places, array_agg(r.origin ->> 'run') AS origins,
    array_agg(r.display_name) AS names, array_agg(r.state) AS states,
    array_agg(extract(epoch FROM r.create_time)::bigint) AS times,
    array_agg(r.code_digest) AS codes, array_agg(r.git_commit) AS commits
FROM unnest($2::text[]) WITH ORDINALITY AS n (uid, place) JOIN runs r ON r.team = $1 AND r.uid = n.uid
"""
_ALIASES = """
SELECT artifact, number, array_agg(alias ORDER BY alias) AS aliases FROM aliases
WHERE team = $1 AND artifact = ANY($2::text[]) GROUP BY artifact, number
"""


async def reached(db: Reads, team: str, root: Key, *, up: bool, limit: int) -> list[Key]:
    """The root and, the nearest first, at most so many nodes of what it comes from, or of what came of it."""
    [row] = await db.fetch(_REACHED.format(step=_UP if up else _DOWN), team, *root, limit)
    return list(zip(row["runs"], row["uids"], strict=True))


async def reads(
    db: Reads, team: str, keys: Sequence[Key], places: Sequence[int], *, up: bool
) -> list[tuple[int, str]]:
    """What those of the nodes at `places` that are runs read (`up`), or who read those that are versions: the
    places, and the uids of the others."""
    near, far = ("run_uid", "version_uid") if up else ("version_uid", "run_uid")
    chosen = _chosen(keys, places, run=up)
    return await _pairs(db, _READS.format(near=near, far=far), chosen, keys, team)


async def sources(
    db: Reads, keys: Sequence[Key], places: Sequence[int], *, up: bool
) -> list[tuple[int, str]]:
    """As `reads`, of the versions that versions were made from (`up`), or that were made from them."""
    near, far = ("version_uid", "source_uid") if up else ("source_uid", "version_uid")
    return await _pairs(db, _SOURCES.format(near=near, far=far), _chosen(keys, places, run=VERSION), keys)


async def versions(db: Reads, team: str, keys: Sequence[Key]) -> Versions:
    """What there is to show of those of the nodes that are versions."""
    return Versions(**await _columns(db, _VERSIONS, team, keys, run=VERSION))


async def runs(db: Reads, team: str, keys: Sequence[Key]) -> Runs:
    """What there is to show of those of the nodes that are runs."""
    return Runs(**await _columns(db, _RUNS, team, keys, run=RUN))


async def aliases(db: Reads, team: str, among: Versions) -> dict[int, list[str]]:
    """The aliases of versions that have any, by their places among the nodes."""
    rows = await db.fetch(_ALIASES, team, list(dict.fromkeys(among.artifacts)))
    found = {(row["artifact"], row["number"]): row["aliases"] for row in rows}
    names = zip(among.artifacts, among.numbers, strict=True)
    return {place: found[name] for place, name in zip(among.places, names, strict=True) if name in found}


async def _columns(db: Reads, query: str, team: str, keys: Sequence[Key], *, run: bool) -> dict[str, Any]:
    chosen = _chosen(keys, range(len(keys)), run=run)
    [row] = await db.fetch(query, team, [keys[place][1] for place in chosen])
    columns = {name: values or () for name, values in dict(row).items()}
    return {**columns, "places": [chosen[at - 1] for at in columns["places"]]}


async def _pairs(
    db: Reads, query: str, chosen: Sequence[int], keys: Sequence[Key], *before: str
) -> list[tuple[int, str]]:
    [row] = await db.fetch(query, *before, [keys[place][1] for place in chosen])
    return [(chosen[at - 1], uid) for at, uid in zip(row["places"] or (), row["uids"] or (), strict=True)]


def _chosen(keys: Sequence[Key], places: Sequence[int], *, run: bool) -> list[int]:
    """Those of the places where there is a run, or a version."""
    return [place for place in places if keys[place][0] is run]

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
class Edges:
    """Columns: what `targets` come from, as places among the nodes, and how (LineageEdge.Relation)."""

    sources: Sequence[int]
    targets: Sequence[int]
    relations: Sequence[int]


@dataclass(frozen=True, slots=True)
class Versions:
    """Columns of versions: where each stands among the nodes, and what is shown of it. Times in seconds."""

    places: Sequence[int]
    artifacts: Sequence[str]
    numbers: Sequence[int]
    kinds: Sequence[int]
    steps: Sequence[int | None]
    times: Sequence[int]
    deleted: Sequence[bool]


@dataclass(frozen=True, slots=True)
class Runs:
    """Columns of runs, as of versions."""

    places: Sequence[int]
    names: Sequence[str]
    states: Sequence[int]
    times: Sequence[int]
    codes: Sequence[str]
    commits: Sequence[str]


# What a node comes from: (is a run, uid, relation).
_UP = """
    SELECT true AS run, v.run_uid AS uid, 2 AS relation
    FROM versions v WHERE NOT n.run AND v.uid = n.uid AND v.team = $1 AND v.run_uid <> ''
    UNION ALL SELECT false, s.source_uid, 3 FROM sources s WHERE NOT n.run AND s.version_uid = n.uid
    UNION ALL SELECT false, u.version_uid, 1 FROM uses u WHERE n.run AND u.team = $1 AND u.run_uid = n.uid
    UNION ALL SELECT true, r.origin ->> 'run', 4
    FROM runs r WHERE n.run AND r.team = $1 AND r.uid = n.uid AND r.origin <> '{}'
"""
# What came of it.
_DOWN = """
    SELECT true AS run, u.run_uid AS uid, 1 AS relation
    FROM uses u WHERE NOT n.run AND u.version_uid = n.uid AND u.team = $1
    UNION ALL SELECT false, s.version_uid, 3 FROM sources s WHERE NOT n.run AND s.source_uid = n.uid
    UNION ALL SELECT false, v.uid, 2
    FROM versions v WHERE n.run AND v.team = $1 AND v.run_uid = n.uid AND v.run_uid <> ''
    UNION ALL SELECT true, r.uid, 4
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
_EDGES = """
SELECT array_agg(n.place::integer) AS near, array_agg(f.run) AS runs, array_agg(f.uid) AS uids,
    array_agg(f.relation) AS relations
FROM unnest($2::boolean[], $3::text[]) WITH ORDINALITY AS n (run, uid, place) JOIN LATERAL ({step}) f ON true
"""
_VERSIONS = """
SELECT array_agg(n.place::integer) AS places, array_agg(v.artifact) AS artifacts,
    array_agg(v.number) AS numbers, array_agg(v.kind) AS kinds, array_agg(v.step) AS steps,
    array_agg(extract(epoch FROM v.create_time)::bigint) AS times,
    array_agg(v.delete_time IS NOT NULL) AS deleted
FROM unnest($2::text[]) WITH ORDINALITY AS n (uid, place) JOIN versions v ON v.uid = n.uid
WHERE v.team = $1
"""
_RUNS = """
SELECT array_agg(n.place::integer) AS places, array_agg(r.display_name) AS names,
    array_agg(r.state) AS states, array_agg(extract(epoch FROM r.create_time)::bigint) AS times,
    array_agg(r.code_digest) AS codes, array_agg(r.git_commit) AS commits
FROM unnest($2::text[]) WITH ORDINALITY AS n (uid, place) JOIN runs r ON r.team = $1 AND r.uid = n.uid
"""
_ALIASES = """
SELECT n.place, array_agg(a.alias ORDER BY a.alias) AS aliases
FROM unnest($2::text[]) WITH ORDINALITY AS n (uid, place) JOIN versions v ON v.uid = n.uid
JOIN aliases a ON (a.team, a.artifact, a.number) = (v.team, v.artifact, v.number)
WHERE v.team = $1 GROUP BY n.place
"""


async def reached(db: Reads, team: str, root: Key, *, up: bool, limit: int) -> list[Key]:
    """The root and, the nearest first, at most so many nodes of what it comes from, or of what came of it."""
    [row] = await db.fetch(_REACHED.format(step=_UP if up else _DOWN), team, *root, limit)
    return list(zip(row["runs"], row["uids"], strict=True))


async def edges(db: Reads, team: str, among: Sequence[Key], *, up: bool) -> Edges:
    """The edges between these nodes, as they are found from below (`up`) or from above."""
    query = _EDGES.format(step=_UP if up else _DOWN)
    [row] = await db.fetch(query, team, [run for run, _ in among], [uid for _, uid in among])
    places = {key: place for place, key in enumerate(among)}
    near, far, relations = [], [], []
    columns = (row[name] or () for name in ("near", "runs", "uids", "relations"))
    for place, run, uid, relation in zip(*columns, strict=True):
        other = places.get((run, uid))
        if other is not None:
            near.append(place - 1)
            far.append(other)
            relations.append(relation)
    return Edges(far, near, relations) if up else Edges(near, far, relations)


async def versions(db: Reads, team: str, keys: Sequence[Key]) -> Versions:
    """What there is to show of those of the nodes that are versions."""
    columns = await _columns(db, _VERSIONS, team, _uids(keys, run=False))
    return Versions(**columns)


async def runs(db: Reads, team: str, keys: Sequence[Key]) -> Runs:
    """What there is to show of those of the nodes that are runs."""
    return Runs(**await _columns(db, _RUNS, team, _uids(keys, run=True)))


async def aliases(db: Reads, team: str, keys: Sequence[Key]) -> dict[int, list[str]]:
    """The aliases of versions that have any, by their places among the nodes."""
    rows = await db.fetch(_ALIASES, team, _uids(keys, run=False))
    return {row["place"] - 1: row["aliases"] for row in rows}


async def _columns(db: Reads, query: str, team: str, uids: Sequence[str | None]) -> dict[str, Any]:
    [row] = await db.fetch(query, team, uids)
    columns = {name: values or () for name, values in dict(row).items()}
    return {**columns, "places": [place - 1 for place in columns["places"]]}


def _uids(keys: Sequence[Key], *, run: bool) -> list[str | None]:
    """Of each node its uid, so that its place is known; None for one of the other sort."""
    return [uid if is_run is run else None for is_run, uid in keys]

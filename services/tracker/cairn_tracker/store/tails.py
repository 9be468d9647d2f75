"""How far metrics go, for those who follow them, in PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cairn_tracker.store.runs import Reads

_EXTENTS = """
SELECT s.run_uid, s.key, coalesce(s.settled_step, s.last_step) AS last_step, s.revisits FROM summaries s
WHERE s.team = $1 AND s.run_uid = ANY($2::text[]) AND s.count > 0
    AND CASE WHEN $3::text[] = '{}' THEN NOT starts_with(s.key, 'system/') ELSE s.key = ANY($3::text[]) END
ORDER BY s.run_uid, s.key LIMIT $4
"""


@dataclass(frozen=True, slots=True)
class Extent:
    """The last step of a metric, and how often earlier ones were changed."""

    run: str
    key: str
    last_step: int
    revisits: int


async def extents(
    db: Reads, team: str, *, runs: Sequence[str], keys: Sequence[str], limit: int
) -> list[Extent]:
    """Of metrics of runs (no keys: all but the platform's own), by run and key."""
    rows = await db.fetch(_EXTENTS, team, list(runs), list(keys), limit)
    return [Extent(row["run_uid"], row["key"], row["last_step"], row["revisits"]) for row in rows]

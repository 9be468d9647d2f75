"""Evaluations of models on a dataset, by lineage, in PostgreSQL."""

from __future__ import annotations

import json

from cairn_tracker.board import Evaluation, numbers
from cairn_tracker.store.runs import Reads

# The dataset is the source that was asked for, the model the first other one.
_EVALUATIONS = """
SELECT e.artifact, e.number, e.metadata, e.create_time, d.number AS dataset_number, m.artifact AS model,
    m.number AS model_number,
    ARRAY(SELECT a.alias FROM aliases a
          WHERE (a.team, a.artifact, a.number) = (m.team, m.artifact, m.number) ORDER BY a.alias) AS aliases
FROM versions d
JOIN sources s ON s.source_uid = d.uid
JOIN versions e ON e.uid = s.version_uid
JOIN LATERAL (
    SELECT v.team, v.artifact, v.number FROM sources o JOIN versions v ON v.uid = o.source_uid
    WHERE o.version_uid = e.uid AND v.artifact <> d.artifact ORDER BY o.position LIMIT 1
) m ON true
WHERE d.team = $1 AND d.artifact = $2 AND ($3::bigint IS NULL OR d.number = $3)
  AND e.team = $1 AND e.kind = $4 AND e.delete_time IS NULL
ORDER BY e.seq DESC LIMIT $5
"""


async def evaluations(
    db: Reads, team: str, dataset: str, *, number: int | None, kind: int, limit: int
) -> list[Evaluation]:
    """Evaluations on a dataset (of one version of it, or all), newest first."""
    rows = await db.fetch(_EVALUATIONS, team, dataset, number, kind, limit)
    return [
        Evaluation(
            evaluation=row["artifact"],
            number=row["number"],
            model=row["model"],
            model_number=row["model_number"],
            dataset_number=row["dataset_number"],
            metrics=numbers(json.loads(row["metadata"]).get("metrics")),
            create_time=row["create_time"],
            aliases=row["aliases"],
        )
        for row in rows
    ]

"""Which versions no rule of retention keeps, in PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from cairn_tracker.store.keeping import Rule
from cairn_tracker.store.runs import Reads

# A version follows the rule of its run's experiment, else the one for all. It stays for any one reason that
# its rule has. Where the metric is not known, it is not known to be worse than the best: it stays, too.
_OUTLIVED = """
WITH rules AS (
    SELECT * FROM unnest(
        $2::smallint[], $3::text[], $4::int[], $5::int[], $6::text[], $7::bool[], $8::float8[]
    ) AS p (kind, experiment, keep_last, keep_best, metric, lowest, keep_for)),
ruled AS (
    SELECT v.team, v.artifact, v.number, v.uid, v.seq, v.pinner, v.create_time,
        p.experiment, p.keep_last, p.keep_best, p.lowest, p.keep_for,
        row_number() OVER (PARTITION BY v.artifact, p.experiment ORDER BY v.seq DESC) AS age,
        nullif(coalesce(CASE WHEN jsonb_typeof(v.metadata #> ARRAY['metrics', p.metric]) = 'number'
            THEN (v.metadata #>> ARRAY['metrics', p.metric])::float8 END, s.last), 'NaN') AS value
    FROM versions v LEFT JOIN runs r ON (r.team, r.uid) = (v.team, v.run_uid)
    JOIN LATERAL (
        SELECT * FROM rules WHERE rules.kind = v.kind AND rules.experiment IN ('', r.experiment)
        ORDER BY rules.experiment DESC LIMIT 1) p ON true
    LEFT JOIN summaries s ON (s.team, s.run_uid, s.key) = (v.team, v.run_uid, p.metric)
    WHERE v.team = $1 AND v.delete_time IS NULL),
ranked AS (
    SELECT ruled.*, row_number() OVER (PARTITION BY artifact, experiment
        ORDER BY CASE WHEN lowest THEN -value ELSE value END DESC NULLS LAST, seq DESC) AS place FROM ruled)
SELECT artifact, number, seq FROM ranked n
WHERE pinner = '' AND (keep_last = 0 OR age > keep_last)
    AND (keep_best = 0 OR (value IS NOT NULL AND place > keep_best))
    AND (keep_for = 0 OR create_time < $9::timestamptz - keep_for * interval '1 second')
    AND NOT EXISTS (SELECT FROM aliases a
        WHERE (a.team, a.artifact, a.number) = (n.team, n.artifact, n.number) AND a.alias <> 'latest')
    AND NOT EXISTS (SELECT FROM promotions p WHERE p.state = 1
        AND (p.team, p.artifact, p.number) = (n.team, n.artifact, n.number))
    AND NOT EXISTS (SELECT FROM model_versions m WHERE m.version_uid = n.uid
        AND m.stage IN ('Staging', 'Production'))
    AND seq > $10 ORDER BY seq LIMIT $11
"""


async def outlived(
    db: Reads, team: str, rules: Sequence[Rule], *, now: datetime, after: int, limit: int
) -> list[tuple[str, int, int]]:
    """Artifact, number and seq of what no rule, alias, pin, stage or promotion that waits keeps, in the order
    of commits after `after`."""
    rows = await db.fetch(
        _OUTLIVED,
        team,
        [rule.kind for rule in rules],
        [rule.experiment for rule in rules],
        [rule.keep_last for rule in rules],
        [rule.keep_best for rule in rules],
        [rule.metric for rule in rules],
        [rule.lowest for rule in rules],
        [rule.keep_for for rule in rules],
        now,
        after,
        limit,
    )
    return [(row["artifact"], row["number"], row["seq"]) for row in rows]

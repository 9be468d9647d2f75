"""All points of a metric, whoever logged them, in MLflow's order: by time, step and value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from cairn_common.db import Database
from cairn_tracker.batch import RunKey
from cairn_tracker.clickhouse import ClickHouse
from cairn_tracker.mlflow.errors import unknown_run
from cairn_tracker.pending import Pending
from cairn_tracker.points import KEPT_MARK
from cairn_tracker.store import ingested

_FIRST: Final = -(2**63)
_LAST: Final = 2**63 - 1

# A row may stand twice where its insert was repeated, or where it is one of those that stay of many.
_POINTS = """
SELECT run, step, intDiv(time, 1000) AS millis, value FROM (
    SELECT run, step, time, value, position FROM points
    WHERE team = {team:String} AND run IN {runs:Array(String)} AND key = {key:String}
      AND step >= {first:Int64} AND step <= {last:Int64}
    LIMIT 1 BY run, step, attempt, replaceOne(writer, {mark:String}, ''), segment, position, cell)
ORDER BY run, millis, step, if(isNaN(value), 0, value)
LIMIT {limit:UInt32} OFFSET {offset:UInt64}
"""


@dataclass(frozen=True, slots=True)
class Range:
    """Which points of a metric. Steps are included, None: from the first, to the last."""

    key: str
    offset: int
    limit: int
    first: int | None = None
    last: int | None = None


class History:
    """Reads what was logged."""

    def __init__(self, *, db: Database, store: ClickHouse, pending: Pending) -> None:
        self._db = db
        self._store = store
        self._pending = pending

    async def read(self, team: str, runs: Sequence[str], wanted: Range) -> Sequence[Sequence[Any]]:
        """Runs, steps, times (milliseconds since 1970) and values in parallel. Raises NotFound for a run that
        the team does not have."""
        keys = [RunKey(team, uid) for uid in runs]
        known = await ingested.line_counts(self._db, keys)
        for key in keys:
            if key not in known:
                raise unknown_run(key.uid)
        await self._pending.settle(keys)
        columns = await self._store.query(
            _POINTS,
            {
                "team": team,
                "runs": list(runs),
                "key": wanted.key,
                "first": _FIRST if wanted.first is None else wanted.first,
                "last": _LAST if wanted.last is None else wanted.last,
                "limit": wanted.limit,
                "offset": wanted.offset,
                "mark": KEPT_MARK,
            },
        )
        return columns or ((), (), (), ())

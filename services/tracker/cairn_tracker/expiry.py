"""Rules by which points and lines go once a run is over, and the work of letting them go.

What goes is noted in PostgreSQL first, so nobody is told that it is there, and deleted from ClickHouse then.
Of a metric's points those stay that its chart is drawn from: they are written once more under a writer that
says so, and all others are deleted. What is inserted after that is no part of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any, Final

import structlog

from cairn_common.clock import Clock
from cairn_common.db import Database
from cairn_common.errors import InvalidArgument, Reason, Unavailable
from cairn_common.ids import check_id
from cairn_tracker.batch import RunKey
from cairn_tracker.clickhouse import ClickHouse
from cairn_tracker.drawing import Extent, width
from cairn_tracker.ingest import announce
from cairn_tracker.points import KEPT_MARK
from cairn_tracker.series_in_store import LATEST_FIRST
from cairn_tracker.store import expiry as rows
from cairn_tracker.store import keeping as store
from cairn_tracker.store.expiry import Expired
from cairn_tracker.store.keeping import RecordRule

log = structlog.get_logger(__name__)

MOST_RULES: Final = 200
_LONGEST: Final = 100 * 366 * 86_400.0
#: Buckets of a chart that is the same with the points that are left, and how many of a metric these are at
#: most, steps without a finite value left out.
BUCKETS: Final = 1_000
KEPT: Final = 4 * BUCKETS
_MOST_A_ROUND: Final = 500
# Of one copy: rows, about, and metrics.
_ROWS: Final = 1_000_000
_KEYS: Final = 500
_PATIENCE: Final = 3_600.0

_EXTENTS = """
SELECT key, sum(count), min(first_step), max(last_step) FROM rollups FINAL
WHERE team = {team:String} AND run = {run:String} GROUP BY key ORDER BY key
"""

_SHOWN = f"""
SELECT key, step, attempt, writer, segment, position, cell, time, value FROM points
WHERE team = {{team:String}} AND run = {{run:String}} AND key IN {{keys:Array(String)}}
  AND step >= {{first:Int64}} AND step < {{end:Int64}}
ORDER BY key, step, {LATEST_FIRST} LIMIT 1 BY key, step
"""  # noqa: S608
# Of equal values the first counts, so that a second time chooses the same.
_THIN = f"""
INSERT INTO points (team, run, key, step, attempt, writer, segment, position, cell, time, value)
SELECT {{team:String}}, {{run:String}}, key, step, attempt,
    if(startsWith(writer, '{KEPT_MARK}'), writer, concat('{KEPT_MARK}', writer)),
    segment, position, cell, time, value
FROM ({_SHOWN})
WHERE (key, step) IN (
    SELECT key, arrayJoin([
        min(step), max(step), ifNull(argMinOrNullIf(step, (value, step), isFinite(value)), min(step)),
        ifNull(argMinOrNullIf(step, (-value, step), isFinite(value)), min(step)),
        ifNull(minOrNullIf(step, NOT isFinite(value)), min(step))])
    FROM ({_SHOWN})
    GROUP BY key, intDiv(
        step - transform(toString(key), {{keys:Array(String)}}, {{lows:Array(Int64)}}, toInt64(0)),
        transform(toString(key), {{keys:Array(String)}}, {{widths:Array(Int64)}}, toInt64(1))))
"""  # noqa: S608

_DROP_POINTS = f"""
ALTER TABLE points DELETE
WHERE team = {{team:String}} AND run IN {{runs:Array(String)}} AND NOT startsWith(writer, '{KEPT_MARK}')
"""
_DROP_LINES = """
ALTER TABLE lines DELETE
WHERE team = {team:String} AND run IN {runs:Array(String)}
  AND sequence <= transform(toString(run), {runs:Array(String)}, {lasts:Array(Int64)}, toInt64(0))
"""
_UNFINISHED = """
SELECT mutation_id, latest_fail_reason FROM system.mutations
WHERE database = currentDatabase() AND table IN ('points', 'lines') AND NOT is_done
"""


def check(rules: Sequence[RecordRule]) -> None:
    """Raises InvalidArgument for a rule that cannot be meant."""
    if len(rules) > MOST_RULES:
        raise InvalidArgument(f"records: at most {MOST_RULES} rules can be given", field="records")
    seen = set()
    for place, rule in enumerate(rules):
        where = f"records[{place}]"
        if rule.record not in (rows.POINTS, rows.LINES):
            raise InvalidArgument(f"{where}.record: say RECORD_POINTS or RECORD_LINES", field=where)
        if rule.experiment:
            check_id(rule.experiment, f"{where}.experiment")
        if (rule.record, rule.experiment) in seen:
            raise InvalidArgument(
                f"{where}: there is another rule for this record and experiment", field=where
            )
        seen.add((rule.record, rule.experiment))
        if not 1 <= rule.keep_for <= _LONGEST:
            raise InvalidArgument(f"{where}.keep_for: it is not in 1 s to 100 years", field=where)


class Expiry:
    """Lets points and lines go that are older than the rules say."""

    def __init__(self, *, db: Database, store: ClickHouse, clock: Clock, writing: asyncio.Lock) -> None:
        """`writing` is held by whoever adds points."""
        self._db = db
        self._store = store
        self._clock = clock
        self._writing = writing

    async def look(
        self, team: str, rules: Sequence[RecordRule] | None, *, after: str, limit: int
    ) -> tuple[list[Expired], str | None]:
        """What would go now by these rules (None: the team's own), by the runs' uids, and where the next page
        begins."""
        if rules is None:
            rules = (await store.rules(self._db, team)).records
        found = await rows.expired(
            self._db, team, rules, now=self._clock.now(), kept=KEPT, after=after, limit=limit
        )
        return found, found[-1].uid if len(found) == limit else None

    async def step(self) -> None:
        """Applies the rules of all teams, to so many runs of each."""
        for team in await rows.teams_with_rules(self._db):
            if left := await unfinished(self._store):
                log.warning("expiry.waiting", left=len(left), error=left[0][1])
                return
            await self._drop(team)
            await self._done(team)

    async def _drop(self, team: str) -> None:
        """Notes what goes, and begins to delete it."""
        rules = (await store.rules(self._db, team)).records
        now = self._clock.now()
        found = await rows.expired(
            self._db, team, rules, now=now, kept=KEPT, limit=_MOST_A_ROUND, all_old=True
        )
        for each in found:
            if each.points:
                await thin(self._store, RunKey(team, each.uid))
        quiet = {each.uid: each.quiet for each in found}
        async with self._writing:
            async with self._db.transaction() as conn:
                await rows.lock(conn, team, quiet)
                due = await rows.expired(
                    conn, team, rules, now=now, kept=KEPT, limit=len(found) + 1, among=quiet, all_old=True
                )
                # Of the others something came in the meantime.
                due = [each for each in due if each.quiet == quiet[each.uid]]
                await rows.drop(conn, team, due, now)
                for each in due:
                    if each.points or each.lines:
                        await announce(conn, RunKey(team, each.uid), created=False, now=now)
            await self._delete(team)

    async def _delete(self, team: str) -> None:
        points, lines = await rows.open_drops(self._db, team)
        if points:
            await drop_points(self._store, team, points)
        if lines:
            asked = {"team": team, "runs": list(lines), "lasts": list(lines.values())}
            await self._store.rearrange(_DROP_LINES, asked)
        if points or lines:
            log.info("expiry.dropping", team=team, points_of=len(points), lines_of=len(lines))

    async def _done(self, team: str) -> None:
        """Waits until all of it is deleted, and notes that."""
        points, lines = await rows.open_drops(self._db, team)
        if not (points or lines):
            return
        pause = 0.05
        try:
            async with asyncio.timeout(_PATIENCE):
                while await unfinished(self._store):
                    await asyncio.sleep(pause)
                    pause = min(pause * 1.5, 10.0)
        except TimeoutError:
            raise Unavailable(
                "the store of points takes over an hour to delete", reason=Reason.STORE_UNAVAILABLE
            ) from None
        await rows.close_drops(self._db, team, {*points, *lines})


async def thin(store: ClickHouse, run: RunKey) -> None:
    """Writes those points of a run once more that are to stay. A second time they are the same."""
    there = await store.query(_EXTENTS, {"team": run.team, "run": run.uid})
    extents = [Extent(run.uid, *row) for row in zip(*there, strict=True)]
    for some, first, end in _pieces(extents):
        await store.rearrange(_THIN, _copy(run, some, first, end))


async def drop_points(store: ClickHouse, team: str, runs: Sequence[str]) -> None:
    """Begins to delete what points of runs there are now, but for those that are to stay."""
    await store.rearrange(_DROP_POINTS, {"team": team, "runs": list(runs)})


async def unfinished(store: ClickHouse) -> list[tuple[str, str]]:
    """Deletions that go on, each with why it cannot, if so."""
    return list(zip(*await store.query(_UNFINISHED, {}), strict=True))


def _copy(run: RunKey, extents: Sequence[Extent], first: int, end: int) -> dict[str, Any]:
    return {
        "team": run.team,
        "run": run.uid,
        "keys": [each.key for each in extents],
        "lows": [each.low for each in extents],
        "widths": [_width(each) for each in extents],
        "first": first,
        "end": end,
    }


def _width(extent: Extent) -> int:
    return width(extent, BUCKETS) if extent.steps > KEPT else 1


def _pieces(extents: Sequence[Extent]) -> Iterator[tuple[list[Extent], int, int]]:
    """Metrics and ranges of whole buckets of theirs, each about as much as is copied at once."""
    some: list[Extent] = []
    for each in extents:
        if each.steps > _ROWS:
            span = _width(each) * max(1, _ROWS * BUCKETS // each.steps)
            yield from (([each], first, first + span) for first in range(each.low, each.high + 1, span))
            continue
        if len(some) == _KEYS or sum(one.steps for one in some) + each.steps > _ROWS:
            yield _together(some)
            some = []
        some.append(each)
    if some:
        yield _together(some)


def _together(extents: list[Extent]) -> tuple[list[Extent], int, int]:
    return extents, min(each.low for each in extents), max(each.high for each in extents) + 1

"""Buckets of 1,024 steps in ClickHouse: keeping them, and what metrics come to by them.

A row is written again whenever its bucket changes, and of the rows of a bucket the one inserted last counts:
there is one writer. While steps only rise, what to write follows from the batch and the tail that PostgreSQL
has; buckets that were logged over, or late, are worked out anew from the points.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, TypeAlias

import numpy as np
import structlog

from cairn_common.errors import InvalidArgument
from cairn_tracker import summary
from cairn_tracker.batch import MetricKey, Points, RunKey
from cairn_tracker.buckets import BUCKET, WIDTH, Buckets
from cairn_tracker.clickhouse import ClickHouse
from cairn_tracker.model import Summary, Tail
from cairn_tracker.native import encode
from cairn_tracker.points import metric_labels
from cairn_tracker.series_in_store import STEPS

log = structlog.get_logger(__name__)

# Buckets worked out in one question: of about a million points, logged once.
_AT_ONCE: Final = 1_000

_RECOMPUTED = f"""
SELECT run, key, min(step), max(step), argMax(time, step), argMax(value, step),
    ifNull(minOrNullIf(value, isFinite(value)), nan), ifNull(argMinOrNullIf(step, value, isFinite(value)), 0),
    ifNull(maxOrNullIf(value, isFinite(value)), nan), ifNull(argMaxOrNullIf(step, value, isFinite(value)), 0),
    count()
FROM ({STEPS})
WHERE ({BUCKET}) IN {{numbers:Array(Int64)}}
GROUP BY run, key, {BUCKET}
"""  # noqa: S608

# Of a run whose points are not all there any more, a bucket is what it was with the points that are:
# so extremes that were logged over stay, and steps before its last one are taken for known.
_MERGED = f"""
SELECT run, key, min(first), max(last_step),
    argMax(at, (last_step, fresh)), argMax(value, (last_step, fresh)),
    ifNull(minOrNullIf(low, isFinite(low)), nan), ifNull(argMinOrNullIf(low_step, low, isFinite(low)), 0),
    ifNull(maxOrNullIf(high, isFinite(high)), nan),
    ifNull(argMaxOrNullIf(high_step, high, isFinite(high)), 0),
    sumIf(steps, NOT fresh) + arrayCount(
        step -> step > ifNull(maxOrNullIf(last_step, NOT fresh), step - 1), groupArrayIf(last_step, fresh))
FROM (
    SELECT run, key, first_step AS first, last_step, time AS at, last AS value, min AS low,
        min_step AS low_step, max AS high, max_step AS high_step, count AS steps, false AS fresh
    FROM rollups FINAL
    WHERE team = {{team:String}} AND (run, key) IN {{pairs:Array(Tuple(String, String))}}
      AND bucket IN {{numbers:Array(Int64)}}
    UNION ALL
    SELECT run, key, step, step, time, value, value, step, value, step, toInt64(1), true FROM ({STEPS})
    WHERE ({BUCKET}) IN {{numbers:Array(Int64)}})
GROUP BY run, key, intDiv(first, {WIDTH})
"""  # noqa: S608

_SUMMARIES = """
SELECT key, argMax(time, last_step), argMax(last, last_step), max(last_step), sum(count),
    minOrNullIf(min, isFinite(min)), argMinOrNullIf(min_step, min, isFinite(min)),
    maxOrNullIf(max, isFinite(max)), argMaxOrNullIf(max_step, max, isFinite(max)),
    argMax(first_step, bucket), argMax(count, bucket), argMax(min, bucket), argMax(min_step, bucket),
    argMax(max, bucket), argMax(max_step, bucket)
FROM (SELECT key, bucket, first_step, last_step, time, last, min, min_step, max, max_step, count
      FROM rollups FINAL
      WHERE team = {team:String} AND run = {run:String} AND key IN {keys:Array(String)})
GROUP BY key
"""


#: Those of some runs whose points are not all there any more.
Thinned: TypeAlias = Callable[[Collection[RunKey]], Awaitable[Collection[RunKey]]]


async def keep(
    store: ClickHouse, points: Points, known: Mapping[MetricKey, Summary], *, thinned: Thinned
) -> dict[MetricKey, Summary]:
    """Brings the buckets up to points that are in the store; what their metrics come to now, of which `known`
    is what they came to before."""
    change = summary.change(points, known)
    await _add(store, change.buckets)
    stale = {RunKey(metric.team, metric.run) for metric in change.stale}
    merged = await thinned(stale) if stale else ()
    for run, keys, numbers in _questions(change.stale):
        sql = _MERGED if run in merged else _RECOMPUTED
        await _add(store, await _recomputed(store, sql, run, keys, numbers))
    return {**change.added, **await _revisited(store, change.revisited)}


async def _revisited(store: ClickHouse, estimates: Mapping[MetricKey, Summary]) -> dict[MetricKey, Summary]:
    """Metrics that were logged again. Of a run with too many buckets for that the estimates have to do: it
    must not hold up the others."""
    by_run: dict[RunKey, list[str]] = {}
    for metric in estimates:
        by_run.setdefault(RunKey(metric.team, metric.run), []).append(metric.key)
    found: dict[MetricKey, Summary] = {}
    for run, keys in by_run.items():
        try:
            for metric, told in (await _summaries(store, run, keys)).items():
                found[metric] = replace(told, revisited=estimates[metric].revisited)
        except InvalidArgument:
            log.warning("ingest.summaries_estimated", team=run.team, run=run.uid, metrics=len(keys))
            found |= {metric: estimates[metric] for metric in (MetricKey(*run, key) for key in keys)}
    return found


async def _add(store: ClickHouse, buckets: Buckets) -> None:
    """Writes buckets over those that were there; on return they are on disk."""
    if len(buckets):
        await store.insert("rollups", _block(buckets))


async def _summaries(store: ClickHouse, run: RunKey, keys: Collection[str]) -> dict[MetricKey, Summary]:
    """What metrics of a run come to, by their buckets.

    Raises InvalidArgument where they are too many to look at within a few seconds.
    """
    columns = await store.query_briefly(_SUMMARIES, {"team": run.team, "run": run.uid, "keys": sorted(keys)})
    return {MetricKey(*run, row[0]): _summary(*row[1:]) for row in zip(*columns, strict=True)}


def _summary(
    last_time: int, last: float, last_step: int, count: int, least: float | None, least_at: int | None,
    most: float | None, most_at: int | None, *tail: Any,
) -> Summary:  # fmt: skip
    first_step, in_tail, low, low_at, high, high_at = tail
    return Summary(
        last_time=last_time,
        last=last,
        last_step=last_step,
        count=count,
        min=least,
        min_step=least_at or 0,
        max=most,
        max_step=most_at or 0,
        tail=Tail(
            first_step=first_step,
            count=in_tail,
            min=None if math.isnan(low) else low,
            min_step=low_at,
            max=None if math.isnan(high) else high,
            max_step=high_at,
        ),
    )


def _questions(
    stale: Mapping[MetricKey, Sequence[int]],
) -> Iterator[tuple[RunKey, list[str], list[int]]]:
    """Metrics of a run that have the same buckets are worked out together: they are logged together."""
    alike: dict[tuple[RunKey, tuple[int, ...]], list[str]] = {}
    for metric, numbers in stale.items():
        alike.setdefault((RunKey(metric.team, metric.run), tuple(numbers)), []).append(metric.key)
    for (run, numbers), keys in alike.items():
        for some_keys in _cut(keys, _AT_ONCE):
            for some_numbers in _cut(list(numbers), max(1, _AT_ONCE // len(some_keys))):
                yield run, some_keys, some_numbers


def _cut(items: list[Any], most: int) -> Iterator[list[Any]]:
    for start in range(0, len(items), most):
        yield items[start : start + most]


async def _recomputed(
    store: ClickHouse, sql: str, run: RunKey, keys: list[str], numbers: list[int]
) -> Buckets:
    parameters = {
        "team": run.team,
        "runs": [run.uid],
        "pairs": [(run.uid, key) for key in keys],
        "first": min(numbers) * WIDTH,
        "end": (max(numbers) + 1) * WIDTH,
        "numbers": numbers,
    }
    try:
        columns = await store.query_briefly(sql, parameters)
    except InvalidArgument:
        # Steps that were logged again and again.
        if len(keys) == len(numbers) == 1:
            log.warning("ingest.bucket_left", team=run.team, run=run.uid, key=keys[0], bucket=numbers[0])
            return Buckets()
        for some_keys in _cut(keys, -(-len(keys) // 2)):
            for some_numbers in _cut(numbers, -(-len(numbers) // 2)):
                await _add(store, await _recomputed(store, sql, run, some_keys, some_numbers))
        return Buckets()
    return _buckets(run, columns)


def _buckets(run: RunKey, columns: Sequence[Sequence[Any]]) -> Buckets:
    if not columns:
        return Buckets()
    uids, keys, *rest = columns
    places: dict[MetricKey, int] = {}
    metric = [
        places.setdefault(MetricKey(run.team, uid, key), len(places))
        for uid, key in zip(uids, keys, strict=True)
    ]
    first, last_step, time, last, least, least_step, most, most_step, count = rest
    return Buckets(
        metrics=list(places),
        metric=np.array(metric, np.int64),
        first_step=np.array(first, np.int64),
        last_step=np.array(last_step, np.int64),
        time=np.array(time, np.int64),
        last=np.array(last, np.float64),
        min=np.array(least, np.float64),
        min_step=np.array(least_step, np.int64),
        max=np.array(most, np.float64),
        max_step=np.array(most_step, np.int64),
        count=np.array(count, np.int64),
    )


def _block(buckets: Buckets) -> bytes:
    return encode(
        {
            **metric_labels(buckets.metrics, buckets.metric),
            "bucket": buckets.number,
            "first_step": buckets.first_step,
            "last_step": buckets.last_step,
            "time": buckets.time,
            "last": buckets.last,
            "min": buckets.min,
            "min_step": buckets.min_step,
            "max": buckets.max,
            "max_step": buckets.max_step,
            "count": buckets.count,
        }
    )

"""Runs side by side. Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from cairn_tracker.model import FINAL_STATES, Json, Run, Summary, is_system

# A metric with one of these in its key is better the smaller it is.
_SMALLER_IS_BETTER = ("loss", "error", "perplexity")


@dataclass(frozen=True, slots=True)
class Value:
    """One metric of one run. `best` is NaN where there was no finite value."""

    last: float
    best: float
    best_step: int


@dataclass(frozen=True, slots=True)
class Row:
    """One run of a comparison."""

    run: Run
    params: Mapping[str, Json]
    metrics: Mapping[str, Value]
    # Seconds from its start to its end, or to now while it goes on.
    duration: float


@dataclass(frozen=True, slots=True)
class Table:
    """Runs in the order asked for, with the keys of its columns in alphabetical order."""

    rows: Sequence[Row]
    param_keys: Sequence[str]
    metric_keys: Sequence[str]


def compare(
    runs: Sequence[Run],
    *,
    metrics: Collection[str],
    minimize: Collection[str],
    all_params: bool,
    now: datetime,
) -> Table:
    """Lays runs side by side: the metrics asked for, and the params that differ.

    Without `metrics` every one but the platform's own (`system/...`).
    """
    wanted = set(metrics) or {key for run in runs for key in run.summary if not is_system(key)}
    param_keys = _param_keys(runs, every=all_params)
    rows = [
        Row(
            run=run,
            params={key: run.params[key] for key in param_keys if key in run.params},
            metrics={
                key: _value(run.summary[key], smaller=is_minimized(key, minimize))
                for key in sorted(wanted)
                if key in run.summary
            },
            duration=_duration(run, now),
        )
        for run in runs
    ]
    return Table(
        rows=rows,
        param_keys=param_keys,
        metric_keys=sorted({key for row in rows for key in row.metrics}),
    )


def is_minimized(key: str, minimize: Collection[str]) -> bool:
    """Whether the best of a metric is its least value: asked for, or told by its key."""
    return key in minimize or any(word in key.lower() for word in _SMALLER_IS_BETTER)


def _param_keys(runs: Sequence[Run], *, every: bool) -> list[str]:
    keys = sorted({key for run in runs for key in run.params})
    if every:
        return keys
    return [key for key in keys if len({_identity(run.params, key) for run in runs}) > 1]


def _identity(params: Mapping[str, Json], key: str) -> str | None:
    """The same text for equal values; None where the run has no such param."""
    return json.dumps(params[key], sort_keys=True) if key in params else None


def _value(summary: Summary, *, smaller: bool) -> Value:
    best, step = (summary.min, summary.min_step) if smaller else (summary.max, summary.max_step)
    if best is None:
        return Value(last=summary.last, best=math.nan, best_step=0)
    return Value(last=summary.last, best=best, best_step=step)


def _duration(run: Run, now: datetime) -> float:
    if run.start_time is None:
        return 0.0
    end = run.end_time if run.end_time is not None and run.state in FINAL_STATES else now
    return max(0.0, (end - run.start_time).total_seconds())

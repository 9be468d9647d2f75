"""Evaluations as a leaderboard: the newest of each model on each dataset, ranked, what got worse. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from cairn_tracker.compare import is_minimized

BASELINE = "production"


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What one version of a model came to on one version of a dataset."""

    evaluation: str
    number: int
    model: str
    model_number: int
    dataset_number: int
    metrics: Mapping[str, float]
    create_time: datetime
    # Of the model's version.
    aliases: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Regression:
    """A metric that is worse: than of the version before (`alias` is empty), or of the one so named."""

    metric: str
    against: int
    alias: str
    was: float
    now: float


@dataclass(frozen=True, slots=True)
class Row:
    """A place on the board."""

    evaluation: Evaluation
    regressions: Sequence[Regression] = ()


@dataclass(frozen=True, slots=True)
class Board:
    """Best first by `metric`; what has it not comes last."""

    metric: str
    metric_keys: Sequence[str]
    rows: Sequence[Row]


def board(evaluations: Iterable[Evaluation], *, metric: str = "", tolerance: float = 0.0) -> Board:
    """The board of evaluations that come newest first."""
    newest: dict[tuple[str, int, int], Evaluation] = {}
    for each in evaluations:
        newest.setdefault((each.model, each.model_number, each.dataset_number), each)
    found = list(newest.values())
    counts = Counter(key for each in found for key in each.metrics)
    chosen = metric or min(counts, key=lambda key: (-counts[key], is_minimized(key, ()), key), default="")
    rows = [Row(each, _regressions(each, found, tolerance)) for each in found]
    return Board(chosen, sorted(counts), sorted(rows, key=lambda row: _place(row.evaluation, chosen)))


def numbers(metrics: object) -> dict[str, float]:
    """The metrics that are finite numbers, of what a version's metadata says."""
    if not isinstance(metrics, dict):
        return {}
    return {
        str(key): float(value)
        for key, value in metrics.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }


def _place(each: Evaluation, metric: str) -> tuple[float, str, int, int]:
    value = each.metrics.get(metric)
    rank = math.inf if value is None else value if is_minimized(metric, ()) else -value
    return rank, each.model, -each.model_number, -each.dataset_number


def _regressions(each: Evaluation, all_: Sequence[Evaluation], tolerance: float) -> list[Regression]:
    same = [
        other
        for other in all_
        if (other.model, other.dataset_number) == (each.model, each.dataset_number)
        and other.model_number != each.model_number
    ]
    before = max(
        (other for other in same if other.model_number < each.model_number),
        key=lambda other: other.model_number,
        default=None,
    )
    baseline = next((other for other in same if BASELINE in other.aliases), None)
    found = _worse(each, before, "", tolerance) if before is not None else []
    if baseline is not None and baseline != before:
        found += _worse(each, baseline, BASELINE, tolerance)
    elif baseline is not None:
        found = [replace(one, alias=BASELINE) for one in found]
    return found


def _worse(each: Evaluation, than: Evaluation, alias: str, tolerance: float) -> list[Regression]:
    found = []
    for key in sorted(each.metrics.keys() & than.metrics.keys()):
        now, was = each.metrics[key], than.metrics[key]
        loss = now - was if is_minimized(key, ()) else was - now
        if loss > tolerance:
            found.append(Regression(key, than.model_number, alias, was, now))
    return found

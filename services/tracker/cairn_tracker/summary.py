"""What metrics come to: the summaries of a batch of points, and how they add to those before. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from cairn_tracker.batch import Floats, Ints, MetricKey, Points
from cairn_tracker.model import Summary


class Change(NamedTuple):
    """What a batch does to the summaries."""

    # Metrics whose points all lie beyond what was known: their summaries follow from the two.
    added: dict[MetricKey, Summary]
    # Metrics of which steps were logged before, or late: to be asked from the points themselves. What they
    # come to as far as that can be told without.
    revisited: dict[MetricKey, Summary]


def change(points: Points, known: Mapping[MetricKey, Summary]) -> Change:
    """The new summaries, without looking at older points where that can be avoided."""
    added: dict[MetricKey, Summary] = {}
    revisited: dict[MetricKey, Summary] = {}
    for metric, (first_step, fresh) in batch_summaries(points).items():
        before = known.get(metric)
        if before is None:
            added[metric] = fresh
        elif first_step > before.last_step:
            added[metric] = follow(before, fresh)
        else:
            revisited[metric] = estimate(before, fresh)
    return Change(added, revisited)


def follow(before: Summary, after: Summary) -> Summary:
    """Two summaries as one, all steps of the second beyond those of the first."""
    lower = after.min is not None and (before.min is None or after.min < before.min)
    higher = after.max is not None and (before.max is None or after.max > before.max)
    least, most = (after if lower else before), (after if higher else before)
    return Summary(
        last=after.last,
        last_step=after.last_step,
        count=before.count + after.count,
        min=least.min,
        min_step=least.min_step,
        max=most.max,
        max_step=most.max_step,
    )


def estimate(before: Summary, after: Summary) -> Summary:
    """Two summaries as one, where steps of the second may be among those of the first: extremes that were
    logged over still count, and of the steps up to the last one before none is taken for new."""
    newer = after.last_step >= before.last_step
    both = follow(before, after)
    return replace(
        both,
        last=after.last if newer else before.last,
        last_step=after.last_step if newer else before.last_step,
        count=before.count + max(0, min(after.count, after.last_step - before.last_step)),
    )


def batch_summaries(points: Points) -> dict[MetricKey, tuple[int, Summary]]:
    """Of each metric in the batch: its first step and its summary, the last value of a step counting."""
    if not len(points):
        return {}
    # The last key sorts first: by metric and step, then from the earliest to the latest value of a step, in
    # the same order as `points.LATEST_FIRST` has it.
    by_name = np.argsort(np.argsort(np.array(points.writers)))
    order = np.lexsort(
        (
            by_name[points.writer],
            points.cell,
            points.position,
            points.segment,
            points.time,
            points.attempt,
            points.step,
            points.metric,
        )
    )
    metric, step, value = points.metric[order], points.step[order], points.value[order]
    newest = np.append((metric[1:] != metric[:-1]) | (step[1:] != step[:-1]), True)
    metric, step, value = metric[newest], step[newest], value[newest]
    starts = np.flatnonzero(np.append(True, metric[1:] != metric[:-1]))
    ends = np.append(starts[1:], len(metric))
    return {
        points.metrics[int(metric[start])]: (int(step[start]), _summary(step[start:end], value[start:end]))
        for start, end in zip(starts, ends, strict=True)
    }


def _summary(step: Ints, value: Floats) -> Summary:
    finite = np.isfinite(value)
    made = Summary(last=float(value[-1]), last_step=int(step[-1]), count=len(step))
    if not finite.any():
        return made
    step, value = step[finite], value[finite]
    least, most = int(np.argmin(value)), int(np.argmax(value))
    return Summary(
        last=made.last,
        last_step=made.last_step,
        count=made.count,
        min=float(value[least]),
        min_step=int(step[least]),
        max=float(value[most]),
        max_step=int(step[most]),
    )

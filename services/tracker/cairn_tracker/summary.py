"""What metrics come to: the summaries of a batch of points, and how they add to those before. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from cairn_tracker.batch import MetricKey, Points
from cairn_tracker.buckets import WIDTH, Buckets, buckets, summaries
from cairn_tracker.model import Summary


class Change(NamedTuple):
    """What a batch does to the summaries and the buckets."""

    # Metrics whose points all lie beyond what was known: their summaries follow from the two.
    added: dict[MetricKey, Summary]
    # Metrics of which steps were logged before, or late: to be asked from the points themselves. What they
    # come to as far as that can be told without.
    revisited: dict[MetricKey, Summary]
    # Buckets as they are from here on.
    buckets: Buckets
    # Of the revisited metrics, the numbers of the buckets to be worked out from the points.
    stale: dict[MetricKey, tuple[int, ...]]


def change(points: Points, known: Mapping[MetricKey, Summary]) -> Change:
    """The new summaries and buckets, without looking at older points where that can be avoided."""
    made = buckets(points)
    numbers, settled = made.number, np.ones(len(made), np.bool_)
    added: dict[MetricKey, Summary] = {}
    revisited: dict[MetricKey, Summary] = {}
    stale: dict[MetricKey, tuple[int, ...]] = {}
    for metric, start, end, fresh in summaries(made):
        before = known.get(metric)
        if before is None:
            added[metric] = fresh
            continue
        first_step, seen = int(made.first_step[start]), before.last_step // WIDTH
        beyond = first_step > before.last_step
        if beyond and (numbers[start] > seen or before.tail is not None):
            tail = fresh.tail
            if numbers[start] == seen and before.tail is not None:
                made.extend(start, before.tail)
                tail = made.tail(end - 1)
            added[metric] = replace(follow(before, fresh), tail=tail)
            continue
        old = start + int(np.searchsorted(numbers[start:end], seen, side="right"))
        settled[start:old] = False
        stale[metric] = tuple(numbers[start:old].tolist())
        revisited[metric] = follow(before, fresh) if beyond else estimate(before, fresh)
    return Change(added, revisited, made.only(settled), stale)


def follow(before: Summary, after: Summary) -> Summary:
    """Two summaries as one, all steps of the second beyond those of the first; without a tail."""
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
        last_time=after.last_time,
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
        last_time=after.last_time if newer else before.last_time,
        count=before.count + max(0, min(after.count, after.last_step - before.last_step)),
        revisited=True,
    )

"""Metrics over another one than the step, as `cairn.define_metric` said."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cairn._http import Json


def axis_of(axes: Mapping[str, str], key: str) -> str:
    """The metric that `key` is drawn over; empty: the step."""
    fitting = [pattern for pattern in axes if pattern == key or _fits(pattern, key)]
    if not fitting:
        return ""
    found = axes[max(fitting, key=lambda pattern: (pattern == key, len(pattern), pattern))]
    return "" if found == key else found


def with_axes(axes: Iterable[Mapping[str, str]], keys: Sequence[str]) -> list[str]:
    """The keys, and those that they are drawn over in one of the runs."""
    over = [axis_of(own, key) for own in axes for key in keys]
    return list(dict.fromkeys([*keys, *(key for key in over if key)]))


def places(steps: Sequence[Any], axis: Json | None) -> list[float]:
    """Where steps lie on an axis, which is a series: at its last value up to them. NaN before its first.

    Without an axis the steps themselves.
    """
    if axis is None:
        return [float(step) for step in steps]
    at = [int(step) for step in axis.get("steps", [])]
    values = [float(value) for value in axis.get("last", [])]
    found = [bisect_right(at, int(step)) - 1 for step in steps]
    return [values[place] if place >= 0 else float("nan") for place in found]


def _fits(pattern: str, key: str) -> bool:
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), key, re.DOTALL) is not None

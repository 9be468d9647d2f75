"""Metric points in ClickHouse: adding them.

Every row that was ever logged is kept (twice what was inserted twice), unless a rule of the team's lets it
go once the run is over (`expiry`). Readers (`series`, `rollups`) see one value a step: of the latest attempt
that logged it, and there the latest one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from cairn_tracker.batch import Ints, MetricKey, Points
from cairn_tracker.clickhouse import ClickHouse
from cairn_tracker.native import Labels, encode, narrow

#: Before the writer of a row that was written once more, to stay when the others go.
KEPT_MARK: Final = "kept "
# Rows in one block: beyond this a block costs memory and wins nothing.
_BLOCK_ROWS: Final = 500_000


async def add(store: ClickHouse, points: Points) -> None:
    """Writes points; on return they are on disk. The same points again change nothing that is read."""
    for start in range(0, len(points), _BLOCK_ROWS):
        await store.insert("points", _block(points, slice(start, start + _BLOCK_ROWS)))


def metric_labels(metrics: Sequence[MetricKey], metric: Ints) -> dict[str, Labels]:
    """The columns that say which metric a row is of; `metric` points into `metrics`."""
    columns = {
        "team": _distinct([metric.team for metric in metrics]),
        "run": _distinct([metric.run for metric in metrics]),
        "key": _distinct([metric.key for metric in metrics]),
    }
    return {
        name: Labels(texts, narrow(place, len(texts))[metric]) for name, (texts, place) in columns.items()
    }


def _block(points: Points, rows: slice) -> bytes:
    return encode(
        {
            **metric_labels(points.metrics, points.metric[rows]),
            "step": points.step[rows],
            "attempt": points.attempt[rows].astype(np.int32),
            "writer": Labels(points.writers, narrow(points.writer[rows], len(points.writers))),
            "segment": points.segment[rows],
            "position": points.position[rows],
            "cell": points.cell[rows].astype(np.uint32),
            "time": points.time[rows],
            "value": points.value[rows],
        }
    )


def _distinct(texts: Sequence[str]) -> tuple[list[str], Any]:
    """The different texts, and for each of `texts` its place among them."""
    places: dict[str, int] = {}
    indexes = [places.setdefault(text, len(places)) for text in texts]
    return list(places), np.array(indexes, np.int64)

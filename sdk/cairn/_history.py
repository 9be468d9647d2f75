"""Metrics and runs as tables: every point that a server has of them, whatever their number."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import IO, Any

from cairn._http import Json

# What one request for a series may bring.
MOST = 10_000
COLUMNS = ("run", "key", "step", "time", "value")

# Series of keys (none: all) with steps from the second to before the third number (0: no end).
Ask = Callable[[Sequence[str], int, int], Sequence[Json]]


@dataclass(frozen=True, slots=True)
class History:
    """Points of metrics, in columns of equal length: by run, key and step. `time` in seconds since 1970."""

    run: list[str] = field(default_factory=list)
    key: list[str] = field(default_factory=list)
    step: list[int] = field(default_factory=list)
    time: list[float] = field(default_factory=list)
    value: list[float] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.step)

    def columns(self) -> dict[str, list[Any]]:
        """The columns by name."""
        return {name: getattr(self, name) for name in COLUMNS}

    def rows(self) -> list[Json]:
        """A dict for each point."""
        columns = self.columns()
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def to_pandas(self) -> Any:
        """A data frame of the columns. Raises ImportError without pandas."""
        return import_module("pandas").DataFrame(self.columns())

    def write_csv(self, file: IO[str]) -> None:
        """The columns with their names above."""
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(zip(*self.columns().values(), strict=True))

    def add(self, run: str, key: str, points: Iterator[tuple[int, float, float]]) -> None:
        """Appends the points of one metric, each as step, time and value."""
        before = len(self)
        for step, time, value in points:
            self.step.append(step)
            self.time.append(time)
            self.value.append(value)
        self.run.extend([run] * (len(self) - before))
        self.key.extend([key] * (len(self) - before))

    def extend(self, other: History) -> None:
        """Appends another's points."""
        for name, column in self.columns().items():
            column.extend(getattr(other, name))


class Runs(Iterator[Json]):
    """Runs as they come, page by page; as a data frame all at once."""

    def __init__(self, runs: Iterator[Json]) -> None:
        self._runs = runs

    def __next__(self) -> Json:
        return next(self._runs)

    def to_pandas(self) -> Any:
        """A row for each run: `uid`, `name`, `state`, times, `params.<key>`, `metrics.<key>` (its last).
        Raises ImportError without pandas."""
        pandas = import_module("pandas")
        return pandas.DataFrame([flat_run(run) for run in self])


def flat_run(run: Json) -> Json:
    """A run as one row of plain values; times in seconds since 1970 are left as the API's texts."""
    row: Json = {
        "uid": run.get("uid", ""),
        "name": run.get("display_name", ""),
        "experiment": str(run.get("experiment", "")).rsplit("/", 1)[-1],
        "state": run.get("state", ""),
        "creator": run.get("creator", ""),
        "create_time": run.get("create_time"),
        "start_time": run.get("start_time"),
        "end_time": run.get("end_time"),
        "tags": list(run.get("tags", [])),
    }
    row |= {f"params.{key}": value for key, value in run.get("params", {}).items()}
    summary = run.get("summary", {})
    return row | {f"metrics.{key}": float(value.get("last", 0)) for key, value in summary.items()}


def collect(ask: Ask, run: str, keys: Sequence[str], *, most: int = MOST) -> History:
    """Every point of a run's metrics (no keys: all but the platform's own), each step's last value."""
    history = History()
    for first in range(0, max(len(keys), 1), 100):  # a request takes no more keys
        some = keys[first : first + 100]
        for series in ask(some, 0, 0):
            key = str(series["key"])
            history.add(run, key, _points(ask, key, series, 0, most))
    return history


def _points(ask: Ask, key: str, series: Json, end: int, most: int) -> Iterator[tuple[int, float, float]]:
    """A series whole; where its buckets hold several steps, they are asked for in pieces that fit."""
    if series.get("exact"):
        columns = (series.get("steps", []), series.get("times", []), series.get("last", []))
        # "NaN" and "Infinity" are texts in JSON, and so may whole numbers be.
        yield from ((int(step), float(at), float(value)) for step, at, value in zip(*columns, strict=True))
        return
    for start, stop in _pieces(series, end, most):
        for piece in ask([key], start, stop):
            yield from _points(ask, key, piece, stop, most)


def _pieces(series: Json, end: int, most: int) -> list[tuple[int, int]]:
    """Ranges of steps, each of as many buckets as hold at most `most` steps; of one bucket at least."""
    starts, counts = [int(step) for step in series["steps"]], [int(count) for count in series["counts"]]
    edges, held = [0], 0
    for place, count in enumerate(counts):
        if held and held + count > most:
            edges.append(place)
            held = 0
        held += count
    stops = [*(starts[edge] for edge in edges[1:]), end]
    return list(zip((starts[edge] for edge in edges), stops, strict=True))

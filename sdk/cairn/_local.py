"""Runs without a server: ``.cairn/runs/<uid>/`` in the working directory holds all there is to know.

``run.json`` says what the run is and how it ended, ``spool/`` holds what it logged. Each process that
goes on in a run has a folder of its own beside it, ``<uid>.<another uid>``: nobody sends what is another's.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cairn import _frames
from cairn._ids import new_uid
from cairn._segments import read_all, writers

if TYPE_CHECKING:
    from cairn._local_media import LocalMedia

FOLDER = Path(".cairn") / "runs"
SYSTEM = "system/"


class Point(NamedTuple):
    """One value of a metric; `time` in seconds since 1970."""

    step: int
    value: float
    time: float


def make_run_folder(uid: str, base: Path | None = None) -> Path:
    """A folder for a new run in the working directory, or in the temporary folder if that is not writable.

    `uid` is its name: that of the run, or of one process's part of it (see `part_of`).
    """
    try:
        return _make_folder(base or Path(), uid)
    except OSError:
        from tempfile import gettempdir

        elsewhere = Path(gettempdir()) / f"cairn-{os.getuid()}"
        try:
            return _make_folder(elsewhere, uid)
        except OSError:
            return elsewhere / FOLDER / uid  # its writer will say so


def _make_folder(place: Path, uid: str) -> Path:
    folder = place.absolute() / FOLDER / uid
    (folder / "spool").mkdir(mode=0o700, parents=True)
    ignore = place / ".cairn" / ".gitignore"
    if not ignore.exists():
        ignore.write_text("*\n")
    return folder


def part_of(uid: str) -> str:
    """A new folder's name for one more process of a run."""
    return f"{uid}.{new_uid()}"


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Replaces run.json, whole or not at all. Raises OSError."""
    temporary = folder / f"run.json.{os.getpid()}"
    try:
        temporary.write_text(json.dumps(record, indent=2) + "\n")
        os.replace(temporary, folder / "run.json")
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


@dataclass(frozen=True, slots=True)
class LocalRun:
    """A run in the local store, as its run.json describes it.

    `folder` is where it began, `folders` are those of all processes that went on in it.
    """

    folder: Path
    uid: str
    name: str
    experiment: str
    state: str
    start_time: float
    end_time: float | None
    params: Mapping[str, Any]
    tags: tuple[str, ...]
    message: str
    folders: tuple[Path, ...]
    group: str = ""
    notes: str = ""
    # Over which metric others are drawn; see `axis`.
    axes: Mapping[str, str] = field(default_factory=dict)

    def axis(self, key: str) -> str:
        """The metric that this one is drawn over, as `define_metric` said; empty: the step."""
        from cairn._axes import axis_of

        return axis_of(self.axes, key)

    def history(self, key: str) -> list[Point]:
        """A metric by step; of two values for one step the one that was logged last."""
        return history(*(folder / "spool" for folder in self.folders), key=key)

    def media(self, key: str = "") -> list[LocalMedia]:
        """Histograms, tables and images that lie here still, by key and step."""
        from cairn import _local_media

        return _local_media.media(*(folder / "spool" for folder in self.folders), key=key)

    def summary(self) -> dict[str, float]:
        """The last value of each metric."""
        return summary(*(folder / "spool" for folder in self.folders))


def local_runs(directory: str | os.PathLike[str] = ".") -> list[LocalRun]:
    """The runs in a directory's local store, oldest first; what several processes did in one run is one."""
    runs: dict[str, LocalRun] = {}
    for run in local_parts(directory):
        runs[run.uid] = _joined(runs[run.uid], run) if run.uid in runs else run
    return list(runs.values())


def local_parts(directory: str | os.PathLike[str] = ".") -> list[LocalRun]:
    """Of each process and run in a directory's local store what it did, by run, oldest first."""
    records = sorted((Path(directory) / FOLDER).glob("*/run.json"), key=lambda path: path.parent.name)
    return [run for path in records if (run := _load(path)) is not None]


def _joined(run: LocalRun, more: LocalRun) -> LocalRun:
    """It goes on while one of them does. If one of them failed it has, unless the other began after that."""
    last = max((more, run), key=lambda part: (part.state == "running", part.state == "failed"))
    if run.end_time is not None and run.end_time <= more.start_time:
        last = more
    ends = [part.end_time for part in (run, more) if part.end_time is not None]
    return replace(
        run, state=last.state, message=last.message, start_time=min(run.start_time, more.start_time),
        end_time=None if last.end_time is None else max(ends), name=run.name or more.name,
        params={**run.params, **more.params}, tags=tuple(dict.fromkeys((*run.tags, *more.tags))),
        folders=(*run.folders, *more.folders), group=more.group or run.group, notes=more.notes or run.notes,
        axes={**run.axes, **more.axes},
    )  # fmt: skip


def history(*spools: Path, key: str) -> list[Point]:
    """A metric's points that still lie in spools, by step."""
    points: dict[int, Point] = {}
    for step, time, keys, payload in _rows(spools):
        if key in keys:
            value = _value(payload, keys.index(key))
            if step not in points or points[step].time <= time:
                points[step] = Point(step, value, time)
    return [points[step] for step in sorted(points)]


def next_step(*spools: Path) -> int:
    """The step behind the highest that still lies in spools, but of `system/...`."""
    own = (step for step, _, keys, _ in _rows(spools) if not all(key.startswith(SYSTEM) for key in keys))
    return max(own, default=-1) + 1


def summary(*spools: Path) -> dict[str, float]:
    """The last value of each metric, but of what the run used of its machine (`system/...`)."""
    last: dict[str, tuple[int, float, float]] = {}
    for step, time, keys, payload in _rows(spools):
        for place, key in enumerate(keys):
            if key not in last or last[key][:2] <= (step, time):
                last[key] = (step, time, _value(payload, place))
    return {key: value for key, (_, _, value) in last.items() if not key.startswith(SYSTEM)}


def _rows(spools: Sequence[Path]) -> Any:
    for folder in (folder for spool in spools for folder in writers(spool)):
        for reader, frame in read_all(folder):
            if frame.payload[0] == _frames.POINT:
                _, shape, time, step = _frames.POINT_HEAD.unpack_from(frame.payload)
                yield step, time, reader.shapes.get(shape, ()), frame.payload


def _value(payload: bytes, place: int) -> float:
    return _frames.DOUBLE.unpack_from(payload, _frames.POINT_HEAD.size + 8 * place)[0]  # type: ignore[no-any-return]


def _load(path: Path) -> LocalRun | None:
    try:
        record = json.loads(path.read_text())
        return LocalRun(
            folder=path.parent,
            uid=str(record["uid"]),
            name=str(record.get("name") or ""),
            experiment=str(record.get("experiment") or "default"),
            state=str(record.get("state") or "running"),
            start_time=float(record["start_time"]),
            end_time=record.get("end_time"),
            params=dict(record.get("params") or {}),
            tags=tuple(record.get("tags") or ()),
            message=str(record.get("message") or ""),
            folders=(path.parent,),
            group=str(record.get("group") or ""),
            notes=str(record.get("notes") or ""),
            axes=dict(record.get("axes") or {}),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None

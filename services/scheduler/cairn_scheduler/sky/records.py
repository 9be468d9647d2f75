"""What is remembered of each attempt on SkyPilot, in one small file each: enough to find it again."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from cairn_common.ids import is_uid
from cairn_scheduler.causes import Evidence
from cairn_scheduler.model import Cause

LAUNCHING, UP, ENDED, DOWN = "launching", "up", "ended", "down"


@dataclass(frozen=True, slots=True)
class Record:
    """One attempt. `after`: everything that the stream of attempts has of it comes after this sequence."""

    uid: str
    team: str
    run_uid: str
    cluster: str
    num_nodes: int
    grace: float
    after: int | None
    phase: str = LAUNCHING
    # The API server's id of the launch.
    request: str = ""
    stopping: bool = False
    evidence: Evidence | None = None
    # Whose job it is.
    creator: str = ""
    # Its runner is of a release that spoke in the stream of what jobs log.
    elsewhere: bool = False
    # Of an hour, millionths of a US dollar; 0: free; None: not known yet.
    price: int | None = None


class Records:
    """The files. All calls are short: a few hundred bytes on a local disk."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def save(self, record: Record, **changes: Any) -> Record:
        """Writes the record, changed. Raises OSError."""
        record = replace(record, **changes)
        hidden = self._folder / f".{record.uid}.new"
        hidden.write_text(json.dumps(asdict(record)))
        os.replace(hidden, self._path(record.uid))
        return record

    def remove(self, uid: str) -> None:
        """Forgets an attempt."""
        self._path(uid).unlink(missing_ok=True)

    def get(self, uid: str) -> Record | None:
        """One of them, where it is there and can be read."""
        return _read(self._path(uid))

    def all(self) -> list[Record]:
        """Those that can be read, oldest first."""
        return [
            record
            for path in sorted(self._folder.glob("*.json"))
            if is_uid(path.stem) and (record := _read(path)) is not None
        ]

    def _path(self, uid: str) -> Path:
        return self._folder / f"{uid}.json"


def _read(path: Path) -> Record | None:
    try:
        raw = json.loads(path.read_text())
        # Written when runners' words were in the stream of what jobs log: in that of attempts all is new.
        if raw.pop("sequence", None) is not None:
            raw["after"], raw["elsewhere"] = 0, True
        if raw["evidence"] is not None:
            raw["evidence"] = _evidence(raw["evidence"])
        return Record(**raw)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _evidence(raw: dict[str, Any]) -> Evidence:
    lines, others, taken = (raw.pop(name) for name in ("last_lines", "others", "taken"))
    return Evidence(
        **raw,
        last_lines=tuple(lines),
        others=tuple(_evidence(other) for other in others),
        taken=None if taken is None else Cause(taken),
    )

"""Files of MLflow's clients that are on their way to the store, in PostgreSQL."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cairn_common.db import Database, Row
from cairn_tracker.store.runs import Reads

_COLUMNS: Final = "team, uid, path, store_id, done"


@dataclass(frozen=True, slots=True)
class Upload:
    """One file on its way."""

    team: str
    uid: str
    path: str
    # The store's own id of it.
    store_id: str
    done: bool = False


async def add(db: Database, upload: Upload, now: datetime) -> None:
    """Notes one that begins."""
    await db.execute(
        "INSERT INTO mlflow_uploads (team, uid, path, store_id, create_time) VALUES ($1, $2, $3, $4, $5)",
        *(upload.team, upload.uid, upload.path, upload.store_id, now),
    )


async def get(db: Reads, team: str, uid: str) -> Upload | None:
    """One by its id."""
    rows = await db.fetch(
        f"SELECT {_COLUMNS} FROM mlflow_uploads WHERE team = $1 AND uid = $2",  # noqa: S608
        *(team, uid),
    )
    return _upload(rows[0]) if rows else None


async def set_done(db: Database, upload: Upload) -> None:
    """A file was made of it."""
    await db.execute(
        "UPDATE mlflow_uploads SET done = true WHERE team = $1 AND uid = $2", upload.team, upload.uid
    )


async def old(db: Reads, before: datetime, *, limit: int) -> list[Upload]:
    """Those that began before a time, the oldest first."""
    rows = await db.fetch(
        f"SELECT {_COLUMNS} FROM mlflow_uploads WHERE create_time < $1"  # noqa: S608
        " ORDER BY create_time LIMIT $2",
        *(before, limit),
    )
    return [_upload(row) for row in rows]


async def remove(db: Database, upload: Upload) -> None:
    """Forgets one."""
    await db.execute("DELETE FROM mlflow_uploads WHERE team = $1 AND uid = $2", upload.team, upload.uid)


def _upload(row: Row) -> Upload:
    return Upload(*row)

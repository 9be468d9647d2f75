"""The circuits beside the loop: which are not closed, who waits for them, and which way a launch may go."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from cairn_common import document
from cairn_common.db import Database
from cairn_scheduler import circuits
from cairn_scheduler.circuits import MEMORY, Circuit, Gate, Tried
from cairn_scheduler.model import Job, Resources, Spec, pool_of
from cairn_scheduler.snapshot import Entry


class Ways:
    """What `look` saw last. Task files are read only while a circuit is not closed, and each once."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._names: dict[str, tuple[str, ...]] = {}
        self.shut: dict[str, Circuit] = {}
        # When the next of them is to be tried.
        self.wake_at: datetime | None = None

    async def look(self, waiting: Iterable[Entry], *, tried: bool, now: datetime) -> dict[str, str]:
        """Sees which circuits are not closed; returns why jobs are kept back by them, by uid.

        Of those that would try an open one again, the first in the queue's order may. `tried`: whether any
        attempt since `MEMORY` went through one.
        """
        self.shut = circuits.derive(await tries(self._db, now=now)) if tried else {}
        if not self.shut:
            self._names.clear()
            self.wake_at = None
            return {}
        there = [entry for entry in waiting if pool_of(entry.infra) == "skypilot"]
        missing = [entry.uid for entry in there if entry.uid not in self._names]
        known = {entry.uid: self._names[entry.uid] for entry in there if entry.uid in self._names}
        self._names = known | (await _names(self._db, missing) if missing else {})
        gate = Gate(self.shut, now)
        self.wake_at = gate.wake_at()
        asking = [
            (entry.uid, self._names.get(entry.uid, ()), entry.resources.times(entry.num_nodes))
            for entry in sorted(there, key=_rank)
            if entry.retry_time is None or entry.retry_time <= now
        ]
        return circuits.kept_back(gate, asking)

    def of(self, job: Job, *, now: datetime) -> tuple[str, ...]:
        """The ways that an attempt of this job may go now; where all are shut, all of them."""
        names = names_of(job.spec)
        return Gate(self.shut, now).open_ways(names, job.spec.need) or names


def names_of(spec: Spec) -> tuple[str, ...]:
    """The circuits that a job can go through; none on this machine."""
    given = document.read(spec.task) if spec.infra and spec.task.strip() else None
    resources = given.get("resources") if isinstance(given, dict) else None
    return circuits.names(resources) if isinstance(resources, dict) else ()


async def tries(db: Database, *, now: datetime) -> list[Tried]:
    """The attempts on SkyPilot of the last hours."""
    rows = await db.fetch(
        """
        SELECT a.job_uid, a.circuits, a.create_time, a.start_time, a.end_time, a.no_capacity, a.state,
            j.num_nodes, j.cpu_milli, j.gpus
        FROM attempts a JOIN jobs j ON j.uid = a.job_uid
        WHERE a.circuits <> '{}' AND a.create_time > $1 ORDER BY a.create_time, a.uid
        """,
        now - MEMORY,
    )
    return [
        Tried(
            job=row["job_uid"],
            circuits=tuple(row["circuits"]),
            need=Resources(row["cpu_milli"], row["gpus"]).times(row["num_nodes"]),
            create_time=row["create_time"],
            start_time=row["start_time"],
            refused_time=row["end_time"] if row["no_capacity"] else None,
            launching=row["state"] == "LAUNCHING",
        )
        for row in rows
    ]


async def _names(db: Database, uids: Sequence[str]) -> dict[str, tuple[str, ...]]:
    rows = await db.fetch("SELECT uid, task, infra FROM jobs WHERE uid = ANY($1::text[])", list(uids))
    return {
        row["uid"]: names_of(Spec(task=row["task"], setup="", run="", infra=row["infra"])) for row in rows
    }


def _rank(entry: Entry) -> tuple[int, bool, datetime, str]:
    return (-entry.priority, entry.retry_time is None, entry.create_time, entry.uid)

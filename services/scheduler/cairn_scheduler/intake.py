"""Group commit of new jobs: those that come while a transaction is under way share the next one.

A caller is answered after the commit that its jobs are in. One caller's trouble (a text that the database
cannot hold, a limit that is reached) is not the others': then each of the group is written for itself.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from cairn_common.cancellation import heed_cancellation
from cairn_common.db import Connection, Database
from cairn_common.errors import InvalidArgument, ResourceExhausted, Unavailable
from cairn_common.rpc import origin
from cairn_scheduler import inflow, store
from cairn_scheduler.arrivals import New, insert_jobs
from cairn_scheduler.inflow import Gate
from cairn_scheduler.store import Sweep
from cairn_scheduler.submit import Draft
from cairn_scheduler.tree import Tree
from cairn_scheduler.vault import Vault, keep

_MOST_JOBS = 1000
_WRITERS = 2
# While several callers send, one transaction waits for those who come as close together as this, and for no
# longer than that: each costs as much as the work for some ten jobs. Who comes alone waits for nobody.
_GAP, _GATHERED_WITHIN = 0.005, 0.02


@dataclass(slots=True)
class _Waiting:
    drafts: Sequence[Draft]
    # The uids of jobs that were made; those of others were made before, under the same request_id.
    made: asyncio.Future[frozenset[str]]
    # Where the caller is.
    address: str


class Intake:
    """`put` from any handler; `run` for as long as jobs are taken."""

    def __init__(self, db: Database, *, vault: Vault, gate: Gate) -> None:
        self._db = db
        self._vault = vault
        self._gate = gate
        self._queue: asyncio.Queue[_Waiting] = asyncio.Queue()
        self._gathering = asyncio.Lock()
        # Whether the last transaction was that of several callers.
        self._shared = False

    async def put(self, drafts: Sequence[Draft]) -> frozenset[str]:
        """Writes the drafts' jobs, all of them or none; returns the uids of those that are new.

        Raises Unavailable (then whether they were written is not known), InvalidArgument, and
        ResourceExhausted where more jobs would wait, or come in an hour, than the quota tree allows.
        """
        waiting = _Waiting(drafts, asyncio.get_running_loop().create_future(), origin().address)
        self._queue.put_nowait(waiting)
        return await waiting.made

    async def put_sweep(self, draft: Draft, sweep: Sweep) -> bool:
        """Writes a sweep with its jobs; False where it was made before. Raises as `put`."""
        tree = await self._gate.limits()
        async with self._db.transaction() as conn:
            await inflow.lock(conn, tree, draft.jobs)
            if not await store.insert_sweep(conn, sweep, request=draft.request):
                return False
            where = origin().address
            new = [
                New(job, actor=draft.creator, address=where, index=at) for at, job in enumerate(draft.jobs)
            ]
            await insert_jobs(conn, new)
            await inflow.hold(conn, tree, draft.jobs)
            await self._keep_secrets(conn, draft)
        return True

    async def run(self) -> NoReturn:
        """Writes for ever."""
        async with asyncio.TaskGroup() as tasks:
            for _ in range(_WRITERS):
                tasks.create_task(self._write_for_ever())
        raise AssertionError("writers have no end")

    async def _write_for_ever(self) -> NoReturn:
        while True:
            heed_cancellation()
            async with self._gathering:
                group = await self._gather()
            await self._write(group)

    async def _gather(self) -> list[_Waiting]:
        group = [await self._queue.get()]
        count = sum(len(draft.jobs) for draft in group[0].drafts)
        until = time.monotonic() + _GATHERED_WITHIN
        while count < _MOST_JOBS:
            if self._queue.empty() and self._shared and time.monotonic() < until:
                await asyncio.sleep(_GAP)
            if self._queue.empty():
                break
            group.append(self._queue.get_nowait())
            count += sum(len(draft.jobs) for draft in group[-1].drafts)
        self._shared = len(group) > 1
        return group

    async def _write(self, group: list[_Waiting]) -> None:
        tree = await self._gate.limits()
        try:
            made = await self._insert(group, tree)
        except (InvalidArgument, ResourceExhausted) as error:
            if len(group) == 1:
                _answer(group, error)
                return
            for one in group:
                await self._write([one])
        except Unavailable as error:
            _answer(group, error)
        except BaseException:
            _answer(group, Unavailable("the scheduler stops; send it again under the same request_id"))
            raise
        else:
            _answer(group, made)

    async def _insert(self, group: Sequence[_Waiting], tree: Tree | None) -> frozenset[str]:
        drafts = [draft for one in group for draft in one.drafts]
        new = [
            New(job, draft.request, actor=draft.creator, address=one.address, message=draft.message)
            for one in group
            for draft in one.drafts
            for job in draft.jobs
        ]
        jobs = [one.job for one in new]
        if not inflow.limited(tree, jobs) and not any(draft.secrets for draft in drafts):
            return frozenset(await insert_jobs(self._db, new))
        async with self._db.transaction() as conn:
            await inflow.lock(conn, tree, jobs)
            made = await insert_jobs(conn, new)
            await inflow.hold(conn, tree, [job for job in jobs if job.uid in made])
            for draft in drafts:
                await self._keep_secrets(conn, draft, only=made)
        return frozenset(made)

    async def _keep_secrets(self, conn: Connection, draft: Draft, *, only: set[str] | None = None) -> None:
        for job in draft.jobs if draft.secrets else ():
            if only is None or job.uid in only:
                await keep(conn, job.uid, self._vault.seal(job.uid, draft.secrets))


def _answer(group: Sequence[_Waiting], answer: frozenset[str] | Exception) -> None:
    for one in group:
        # A caller that has gone has cancelled its future.
        if one.made.done():
            continue
        if isinstance(answer, Exception):
            one.made.set_exception(answer)
        else:
            one.made.set_result(answer)

"""Jobs as whoever decides wrote them last, so that the next step of each need not read it again.

What is remembered may be old: somebody steered the job meanwhile. Each step is guarded by the revision that
it follows, so an old one is never written over a new one; whoever misses forgets, and reads.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

from cairn_common.db import Connection, Database
from cairn_scheduler import steps, store
from cairn_scheduler.lease import Lead
from cairn_scheduler.model import Job, State
from cairn_scheduler.steps import Step

_MOST = 4096
# Task files may be large: those are read again.
_LARGEST = 16 * 1024
_NONE: Mapping[str, str] = MappingProxyType({})


class Recent:
    """The jobs on their way, the newest of them."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        # The job of an attempt that is active, by what is remembered.
        self._by_attempt: dict[str, str] = {}

    async def by_uid(self, uids: Sequence[str]) -> dict[str, Job]:
        """These jobs, those that there are, as they are or were a moment ago."""
        found = {uid: self._jobs[uid] for uid in uids if uid in self._jobs}
        missing = [uid for uid in uids if uid not in found]
        return found | (await store.jobs_by_uid(self._db, missing) if missing else {})

    async def of_attempts(self, attempt_uids: Sequence[str]) -> dict[str, Job]:
        """The jobs that attempts belong to, by attempt."""
        known = {uid: self._by_attempt[uid] for uid in attempt_uids if uid in self._by_attempt}
        found = {uid: self._jobs[job] for uid, job in known.items()}
        missing = [uid for uid in attempt_uids if uid not in found]
        return found | (await store.jobs_of_attempts(self._db, missing) if missing else {})

    async def save_alone(
        self, lead: Lead, taken: Sequence[Step], *, tokens: Mapping[str, str] = _NONE
    ) -> set[str]:
        """As `steps.save_alone`, and noted."""
        try:
            done = await steps.save_alone(lead, taken, tokens=tokens)
        except BaseException:
            self.forget(new.uid for _, new, _ in taken)
            raise
        self.forget(new.uid for _, new, _ in taken if new.uid not in done)
        self.note(taken, done)
        return done

    async def save(self, conn: Connection, taken: Sequence[Step]) -> set[str]:
        """As `steps.save_many`. What missed is forgotten at once; what was written is to be noted by `note`,
        once it is committed."""
        try:
            done = await steps.save_many(conn, taken)
        except BaseException:
            self.forget(new.uid for _, new, _ in taken)
            raise
        self.forget(new.uid for _, new, _ in taken if new.uid not in done)
        return done

    def note(self, taken: Iterable[Step], done: set[str]) -> None:
        """Remembers jobs as they were written; those that need no next step of ours are forgotten."""
        for _, new, _ in taken:
            if new.uid not in done:
                continue
            self.forget([new.uid])
            if new.state.placed and len(new.spec.task) + len(new.code.git_diff) <= _LARGEST:
                self._jobs[new.uid] = new
                if new.active is not None:
                    self._by_attempt[new.active.uid] = new.uid
        while len(self._jobs) > _MOST:
            self.forget([next(iter(self._jobs))])

    def compare(self, uid: str, state: State) -> None:
        """What a job's row says of its state: where another one is remembered, that is forgotten."""
        known = self._jobs.get(uid)
        if known is not None and known.state is not state:
            self.forget([uid])

    def forget(self, uids: Iterable[str]) -> None:
        """They are to be read again."""
        for uid in uids:
            old = self._jobs.pop(uid, None)
            if old is not None and old.active is not None:
                self._by_attempt.pop(old.active.uid, None)

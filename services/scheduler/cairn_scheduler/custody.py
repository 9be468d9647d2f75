"""What is done for attempts beside their job's states: tokens live on or end, remains are shipped, folders
are tidied. Wakes when a runner has gone, and every 15 s."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import NoReturn

import structlog

from cairn_common.cancellation import heed_cancellation
from cairn_common.clock import Clock
from cairn_common.db import Database
from cairn_common.errors import DomainError, Unavailable
from cairn_common.ids import new_uid
from cairn_scheduler import steps, store
from cairn_scheduler.cluster import Cluster, LaunchFailed, Remains
from cairn_scheduler.lease import Lead
from cairn_scheduler.quota import Minting, Quota
from cairn_scheduler.store import OpenAttempt

log = structlog.get_logger(__name__)

_LOOK_SECONDS = 15.0
# Between two looks: what ends in the meantime shares the next one.
_BREATH = 0.2
_RENEW_EVERY = timedelta(minutes=4)
# A token outlives its attempt by at most this, to ship what was logged last.
_SHIP_TIME = timedelta(minutes=2)
_SHIP_FIRST = timedelta(seconds=5)
_SHIP_LAST = timedelta(minutes=5)


class Custody:
    """Keeps in memory only when it last did what; a new one does it again."""

    def __init__(
        self, *, db: Database, lead: Lead, quota: Quota, clusters: Mapping[str, Cluster], clock: Clock
    ) -> None:
        self._db = db
        self._lead = lead
        self._quota = quota
        self._clusters = clusters
        self._clock = clock
        self._renewed: dict[str, datetime] = {}
        self._shipped: dict[str, tuple[datetime, timedelta]] = {}

    async def run(self, wake: asyncio.Event) -> NoReturn:
        """Rounds for ever. What is away is waited for."""
        look_at_all = 0.0
        while True:
            heed_cancellation()
            wake.clear()
            whole = time.monotonic() >= look_at_all
            if whole:
                look_at_all = time.monotonic() + _LOOK_SECONDS
            try:
                await self.round(whole=whole)
            except Unavailable as error:
                log.warning("custody.waiting", reason=str(error.reason), error=error.message)
            await asyncio.sleep(_BREATH)
            try:
                async with asyncio.timeout(_LOOK_SECONDS):
                    await wake.wait()
            except TimeoutError:
                pass

    async def round(self, *, whole: bool) -> None:
        """One look at each attempt that has ended and is not closed; `whole`: at those that run, too."""
        await self._lead.check()
        attempts = await store.open_attempts(self._db, ended=not whole)
        shipped = []
        for attempt in attempts:
            try:
                if attempt.active:
                    await self._renew(attempt)
                elif await self._clear(attempt):
                    shipped.append(attempt)
            except Unavailable:
                raise
            except DomainError as error:
                # One attempt's trouble is not the others'.
                log.error(
                    "custody.refused", attempt=attempt.uid, reason=str(error.reason), error=error.message
                )
        await self._close(shipped)
        if not whole:
            return
        open_uids = {attempt.uid for attempt in attempts}
        for memory in (self._renewed, self._shipped):
            for uid in memory.keys() - open_uids:
                del memory[uid]

    async def _renew(self, attempt: OpenAttempt) -> None:
        now = self._clock.now()
        # A token is made with its attempt, and lives for a while by itself.
        last = self._renewed.get(attempt.uid, attempt.create_time)
        if attempt.token_uid and now - last >= _RENEW_EVERY:
            await self._quota.renew(attempt.token_uid)
            self._renewed[attempt.uid] = now

    async def _clear(self, attempt: OpenAttempt) -> bool:
        """Ships what is left, or ends the token, whatever is due; whether all is shipped."""
        cluster = self._clusters.get(attempt.cluster)
        remains = await cluster.remains(attempt.uid) if cluster is not None else Remains.SHIPPED
        if remains is Remains.UNSHIPPED and cluster is not None:
            await self._ship(attempt, cluster)
        elif remains is not Remains.SHIPPED and self._clock.now() >= self._token_end(attempt):
            await self._revoke([attempt])
        return remains is Remains.SHIPPED

    async def _close(self, attempts: Sequence[OpenAttempt]) -> None:
        """Ends their tokens, and tidies up after them."""
        if not attempts:
            return
        await self._revoke(attempts)
        for attempt in attempts:
            cluster = self._clusters.get(attempt.cluster)
            if cluster is not None:
                await cluster.tidy(attempt.uid)
        async with self._lead.transaction() as conn:
            await store.close_attempts(conn, [one.uid for one in attempts], now=self._clock.now())

    async def _ship(self, attempt: OpenAttempt, cluster: Cluster) -> None:
        now = self._clock.now()
        last, pause = self._shipped.get(attempt.uid, (None, timedelta(0)))
        if last is not None and now - last < pause:
            return
        self._shipped[attempt.uid] = (now, min(max(pause * 2, _SHIP_FIRST), _SHIP_LAST))
        await self._revoke([attempt])
        token = await self._quota.mint(
            Minting(team=attempt.team, run_uid=attempt.job_uid, attempt_uid=attempt.uid, request_id=new_uid())
        )
        async with self._lead.transaction() as conn:
            await steps.set_tokens(conn, {attempt.uid: token.uid})
        log.info("attempt.shipping", attempt=attempt.uid)
        try:
            await cluster.ship(attempt.uid, token=token.secret)
        except LaunchFailed as error:
            log.warning("attempt.not_shipped", attempt=attempt.uid, error=str(error))

    async def _revoke(self, attempts: Sequence[OpenAttempt]) -> None:
        held = {one.uid: one.token_uid for one in attempts if one.token_uid}
        if held:
            await self._quota.revoke(list(held.values()))
            async with self._lead.transaction() as conn:
                await steps.set_tokens(conn, dict.fromkeys(held, ""))

    def _token_end(self, attempt: OpenAttempt) -> datetime:
        began = self._shipped.get(attempt.uid, (None, None))[0] or attempt.end_time
        assert began is not None
        return began + _SHIP_TIME

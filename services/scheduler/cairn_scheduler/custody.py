"""What is done for attempts beside their job's states: tokens live on or end, remains are shipped, folders
are tidied. Wakes when a runner has gone, and every 15 s."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import NoReturn

import structlog

from cairn_common.cancellation import heed_cancellation
from cairn_common.clock import Clock
from cairn_common.db import Database
from cairn_common.errors import DomainError, Unavailable
from cairn_common.ids import new_uid
from cairn_scheduler import store
from cairn_scheduler.cluster import Cluster, LaunchFailed, Remains
from cairn_scheduler.lease import Lead
from cairn_scheduler.quota import Quota
from cairn_scheduler.store import OpenAttempt

log = structlog.get_logger(__name__)

_LOOK_SECONDS = 15.0
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
        while True:
            heed_cancellation()
            wake.clear()
            try:
                await self.round()
            except Unavailable as error:
                log.warning("custody.waiting", reason=str(error.reason), error=error.message)
            try:
                async with asyncio.timeout(_LOOK_SECONDS):
                    await wake.wait()
            except TimeoutError:
                pass

    async def round(self) -> None:
        """One look at each attempt for which something is left to do."""
        await self._lead.check()
        attempts = await store.open_attempts(self._db)
        for attempt in attempts:
            try:
                if attempt.active:
                    await self._renew(attempt)
                else:
                    await self._clear(attempt)
            except Unavailable:
                raise
            except DomainError as error:
                # One attempt's trouble is not the others'.
                log.error(
                    "custody.refused", attempt=attempt.uid, reason=str(error.reason), error=error.message
                )
        open_uids = {attempt.uid for attempt in attempts}
        for memory in (self._renewed, self._shipped):
            for uid in memory.keys() - open_uids:
                del memory[uid]

    async def _renew(self, attempt: OpenAttempt) -> None:
        now = self._clock.now()
        last = self._renewed.get(attempt.uid)
        if attempt.token_uid and (last is None or now - last >= _RENEW_EVERY):
            await self._quota.renew(attempt.token_uid)
            self._renewed[attempt.uid] = now

    async def _clear(self, attempt: OpenAttempt) -> None:
        """Ships what is left, ends the token, tidies up; whatever of it is due."""
        cluster = self._clusters.get(attempt.cluster)
        remains = await cluster.remains(attempt.uid) if cluster is not None else Remains.SHIPPED
        if remains is Remains.SHIPPED:
            await self._revoke(attempt)
            if cluster is not None:
                await cluster.tidy(attempt.uid)
            async with self._lead.transaction() as conn:
                await store.close_attempt(conn, attempt.uid, now=self._clock.now())
        elif remains is Remains.UNSHIPPED and cluster is not None:
            await self._ship(attempt, cluster)
        elif self._clock.now() >= self._token_end(attempt):
            await self._revoke(attempt)

    async def _ship(self, attempt: OpenAttempt, cluster: Cluster) -> None:
        now = self._clock.now()
        last, pause = self._shipped.get(attempt.uid, (None, timedelta(0)))
        if last is not None and now - last < pause:
            return
        self._shipped[attempt.uid] = (now, min(max(pause * 2, _SHIP_FIRST), _SHIP_LAST))
        await self._revoke(attempt)
        token = await self._quota.mint(
            team=attempt.team, run_uid=attempt.job_uid, attempt_uid=attempt.uid, request_id=new_uid()
        )
        async with self._lead.transaction() as conn:
            await store.set_token(conn, attempt.uid, token.uid)
        log.info("attempt.shipping", attempt=attempt.uid)
        try:
            await cluster.ship(attempt.uid, token=token.secret)
        except LaunchFailed as error:
            log.warning("attempt.not_shipped", attempt=attempt.uid, error=str(error))

    async def _revoke(self, attempt: OpenAttempt) -> None:
        if attempt.token_uid:
            await self._quota.revoke(attempt.token_uid)
            async with self._lead.transaction() as conn:
                await store.set_token(conn, attempt.uid, "")

    def _token_end(self, attempt: OpenAttempt) -> datetime:
        began = self._shipped.get(attempt.uid, (None, None))[0] or attempt.end_time
        assert began is not None
        return began + _SHIP_TIME

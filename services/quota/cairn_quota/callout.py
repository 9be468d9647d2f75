"""Answers the bus when somebody without a key of its own connects: who is it, what may it publish.

The server waits for 1.5 s; whatever goes wrong here, the connection is refused.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Never

import structlog
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from cairn_common.clock import Clock
from cairn_common.errors import DomainError, Unauthenticated
from cairn_quota.authentication import Authenticator
from cairn_quota.connection import RECONNECT_WAIT, connection
from cairn_quota.grants import grant
from cairn_quota.jwt import ConnectRequest, Issuer, read_request
from cairn_quota.team_streams import TeamStreams

SUBJECT = "$SYS.REQ.USER.AUTH"
QUEUE = "quota-callout"
ANSWER_WITHIN = 1.2
"""Seconds; the server gives up after 1.5."""
AT_ONCE = 64
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Callout:
    """Answers connection requests by quota's own tables."""

    issuer: Issuer
    authenticator: Authenticator
    clock: Clock
    account: str
    # None: somebody else sees to the streams.
    streams: TeamStreams | None = None

    async def answer(self, data: bytes) -> bytes | None:
        """The signed answer to a server's request; None where what came is no request of a server."""
        try:
            request = read_request(data)
        except ValueError as error:
            log.warning("callout.request_malformed", error=str(error))
            return None
        now = self.clock.now()
        try:
            jwt = await self._user(request)
        except (DomainError, TimeoutError) as error:
            reason = error.reason if isinstance(error, DomainError) else "TIMEOUT"
            log.info("callout.refused", reason=str(reason))
            return self.issuer.answer(request, error=f"refused: {reason}", now=now)
        return self.issuer.answer(request, jwt=jwt, now=now)

    async def _user(self, request: ConnectRequest) -> str:
        async with asyncio.timeout(ANSWER_WITHIN):
            token, roles = await self.authenticator.check(request.token)
        now = self.clock.now()
        allowed = grant(token, roles=roles, secret=request.token, now=now)
        if allowed is None:
            raise Unauthenticated("this token opens nothing on the bus")
        if self.streams is not None:
            await self.streams.ready(allowed.teams)
        return self.issuer.user(
            user_nkey=request.user_nkey,
            name=token.uid,
            account=self.account,
            publish=list(allowed.publish),
            subscribe=list(allowed.subscribe),
            now=now,
            expires=allowed.expires,
        )


async def answer_callouts(callout: Callout, *, url: str, seed: str) -> Never:
    """Answers until cancelled, together with the other replicas. `seed`: a user of the callout's account."""
    slots = asyncio.Semaphore(AT_ONCE)

    async def answer(message: Msg) -> None:
        async with slots:
            reply = await callout.answer(message.data)
            if reply is None:
                return
            try:
                await message.respond(reply)
            except (NatsError, OSError) as error:
                # The server refuses the connection by itself when no answer comes.
                log.warning("callout.answer_lost", error=repr(error))

    while True:
        async with connection(url, seed=seed, name="quota-callout") as bus, asyncio.TaskGroup() as tasks:

            async def start(message: Msg, tasks: asyncio.TaskGroup = tasks) -> None:
                tasks.create_task(answer(message))

            await bus.client.subscribe(SUBJECT, queue=QUEUE, cb=start)
            log.info("callout.ready")
            await bus.closed.wait()
        log.warning("callout.lost")
        await asyncio.sleep(RECONNECT_WAIT)

"""Ends the connections of revoked tokens. Needs a user of the system account; without it, expiry does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import structlog
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.errors import TimeoutError as NatsTimeoutError

from cairn.quota.v1 import events_pb2
from cairn_common.bus import Message
from cairn_common.errors import Reason, Unavailable

GATHER = 0.5
"""Seconds of silence after which no further server is expected to answer."""
ANSWER_WITHIN = 2.0
"""Seconds."""
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Kicker:
    """Closes connections by the token that they were opened with."""

    system: Client
    # The uids of a subject's tokens that are good.
    tokens_of: Callable[[str], Awaitable[set[str]]]

    async def __call__(self, messages: Sequence[Message]) -> None:
        """Hears token.revoked, and member.updated and removed: whoever may less comes back as such.

        Raises Unavailable while the system account cannot be reached."""
        revoked: set[str] = set()
        for message in messages:
            revoked |= await self._tokens(events_pb2.QuotaEvent.FromString(message.data))
        try:
            # All at once: each waits until no further server answers.
            await asyncio.gather(*(self.kick(token_uid) for token_uid in revoked))
        except (NatsError, OSError) as error:
            raise Unavailable("the bus does not answer", reason=Reason.BUS_UNAVAILABLE) from error

    async def _tokens(self, event: events_pb2.QuotaEvent) -> set[str]:
        arm = event.WhichOneof("event")
        if arm == "token_revoked":
            return {event.token_revoked.token.uid}
        if arm in ("member_updated", "member_removed"):
            return await self.tokens_of(getattr(event, arm).membership.user)
        return set()

    async def kick(self, token_uid: str) -> int:
        """Closes every connection of the token on every server; returns how many."""
        found = await self._connections(token_uid)
        for server, cid in found:
            # As a request: the server does nothing for who does not want to know.
            await self.system.request(
                f"$SYS.REQ.SERVER.{server}.KICK", json.dumps({"cid": cid}).encode(), timeout=ANSWER_WITHIN
            )
        if found:
            log.info("callout.kicked", token=token_uid, connections=len(found))
        return len(found)

    async def _connections(self, token_uid: str) -> list[tuple[str, int]]:
        inbox = self.system.new_inbox()
        replies = await self.system.subscribe(inbox)
        found = []
        try:
            ask = {"auth": True, "user": token_uid, "limit": 1000}
            await self.system.publish("$SYS.REQ.SERVER.PING.CONNZ", json.dumps(ask).encode(), reply=inbox)
            while True:
                answer = json.loads((await replies.next_msg(timeout=GATHER)).data)
                server = answer["server"]["id"]
                found += [(server, one["cid"]) for one in answer["data"].get("connections") or []]
        except (TimeoutError, NatsTimeoutError):
            return found
        finally:
            await replies.unsubscribe()

"""Ends the connections of revoked tokens. Needs a user of the system account; without it, expiry does."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import structlog
from cairn.quota.v1 import events_pb2
from cairn_common.bus import Message
from nats.aio.client import Client
from nats.errors import TimeoutError as NatsTimeoutError

GATHER = 0.5
"""Seconds of silence after which no further server is expected to answer."""
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Kicker:
    """Closes connections by the token that they were opened with."""

    system: Client

    async def __call__(self, messages: Sequence[Message]) -> None:
        """Hears token.revoked."""
        for message in messages:
            event = events_pb2.QuotaEvent.FromString(message.data)
            if event.WhichOneof("event") == "token_revoked":
                await self.kick(event.token_revoked.token.uid)

    async def kick(self, token_uid: str) -> int:
        """Closes every connection of the token on every server; returns how many."""
        kicked = 0
        for server, cid in await self._connections(token_uid):
            await self.system.publish(f"$SYS.REQ.SERVER.{server}.KICK", json.dumps({"cid": cid}).encode())
            kicked += 1
        if kicked:
            await self.system.flush(timeout=2)
            log.info("callout.kicked", token=token_uid, connections=kicked)
        return kicked

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

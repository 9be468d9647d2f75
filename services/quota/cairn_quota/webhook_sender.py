"""Sends what webhooks are told: signed, to the very address that was checked, and again until taken."""

from __future__ import annotations

import asyncio
import json
import socket
from dataclasses import dataclass, field
from typing import NoReturn
from urllib.parse import urlsplit

import httpx
import structlog

from cairn_common.clock import Clock
from cairn_common.errors import Unavailable
from cairn_common.sealing import Sealed, Sealer
from cairn_quota.webhook import DeliveryState, Reach, pause, signature
from cairn_quota.webhook_store import Due, Outcome, WebhookStore

AT_ONCE = 8
WHOLE_SECONDS = 15.0
"""For one try, from the name's look-up to the answer."""
MOST_ANSWER_BYTES = 16 * 1024
_LOOK_AGAIN = 60.0
log = structlog.get_logger()


class Refused(Exception):
    """It is not sent there; the message is for people."""


@dataclass(slots=True)
class Sender:
    """Works off what is due, for ever. `wake` it when there is something new."""

    store: WebhookStore
    sealer: Sealer
    reach: Reach
    clock: Clock
    _woken: asyncio.Event = field(default_factory=asyncio.Event)

    def wake(self) -> None:
        """There is something new."""
        self._woken.set()

    async def run(self) -> NoReturn:
        """Sends; waits out a database that is away."""
        while True:
            self._woken.clear()
            try:
                await self.store.forget_old(now=self.clock.now())
                while due := await self.store.take(now=self.clock.now(), most=AT_ONCE):
                    await asyncio.gather(*(self._send(one) for one in due))
                wait = await self._until_next()
            except Unavailable as error:
                log.warning("webhooks.waiting", reason=str(error.reason))
                wait = 2.0
            try:
                async with asyncio.timeout(wait):
                    await self._woken.wait()
            except TimeoutError:
                pass

    async def _until_next(self) -> float:
        soonest = await self.store.soonest()
        left = _LOOK_AGAIN if soonest is None else (soonest - self.clock.now()).total_seconds()
        return min(max(left, 0.05), _LOOK_AGAIN)

    async def _send(self, due: Due) -> None:
        status, error = 0, ""
        try:
            kept = json.loads(self.sealer.open(due.webhook, due.sealed))
            async with asyncio.timeout(WHOLE_SECONDS):
                status = await self._post(kept["url"], kept["secret"], due)
        except TimeoutError:
            error = f"no answer within {WHOLE_SECONDS:g} s"
        except (Refused, Sealed) as refused:
            error = str(refused)
        except (httpx.HTTPError, httpx.InvalidURL, OSError, UnicodeError) as broken:
            # Its own words could name addresses of the inside.
            error = f"the connection failed ({type(broken).__name__})"
        except Exception as broken:
            # Whatever it is, it is this delivery's, and no reason to end the service.
            log.error("webhooks.failed", exc_info=broken)
            error = "it could not be sent"
        await self.store.tried(due.uid, self._outcome(due, status, error))

    def _outcome(self, due: Due, status: int, error: str) -> Outcome:
        if 200 <= status < 300:
            return Outcome(DeliveryState.DELIVERED, status, "", None)
        wait = pause(due.attempts)
        told = error or f"it answered {status}"
        if wait is None:
            return Outcome(DeliveryState.FAILED, status, told, None)
        return Outcome(DeliveryState.PENDING, status, told, self.clock.now() + wait)

    async def _post(self, url: str, secret: str, due: Due) -> int:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
        address = self.reach.chosen(await _addresses(host, port))
        if not address:
            raise Refused(
                f"{host} leads to an address that is not public; CAIRN_WEBHOOK_NETWORKS can allow it"
            )
        # To the very address that was checked, whatever the name leads to by then; TLS is for the name.
        pinned = httpx.URL(url).copy_with(host=address)
        headers = {
            "Host": parts.netloc.rpartition("@")[2],
            "Content-Type": "application/json",
            "User-Agent": "cairn-webhook/1",
            "Cairn-Event": due.event,
            "Cairn-Delivery": due.uid,
            "Cairn-Signature": signature(secret, due.body, now=self.clock.now()),
        }
        async with (
            httpx.AsyncClient(trust_env=False, follow_redirects=False, timeout=WHOLE_SECONDS) as client,
            client.stream(
                "POST", pinned, content=due.body.encode(), headers=headers, extensions={"sni_hostname": host}
            ) as answer,
        ):
            taken = 0
            async for piece in answer.aiter_raw(4096):
                taken += len(piece)
                if taken > MOST_ANSWER_BYTES:
                    break
            return answer.status_code


async def _addresses(host: str, port: int) -> list[str]:
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(each[4][0]) for each in found]

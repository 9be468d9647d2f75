"""Webhooks over real servers: told once, signed, tried again, and never led inside."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from cairn.quota.v1 import token_pb2, webhook_pb2
from cairn.quota.v1 import webhook_service_pb2 as hooks
from cairn.scheduler.v1 import events_pb2, job_pb2
from cairn_common.bus import Bus, connect
from cairn_common.errors import Reason
from cairn_common.ids import new_uid
from cairn_common.subjects import STREAMS, subject
from tests.harness.problem import problem
from tests.harness.quota import Quota, running

Delivery = webhook_pb2.WebhookDelivery


@dataclass
class Receiver:
    """Somebody elsewhere: notes what comes, and answers as it is told."""

    port: int = 0
    answers: list[str] = field(default_factory=list)
    heard: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
            sent = await reader.readexactly(int(headers.get("content-length", "0")))
            self.heard.append((first, headers, sent))
            answer = self.answers.pop(0) if self.answers else "200 OK"
            status, _, more = answer.partition("|")
            writer.write(f"HTTP/1.1 {status}\r\n{more}Connection: close\r\n\r\n".encode())
            if status.startswith("207"):  # more than anybody wants to read
                for _ in range(64):
                    writer.write(b"x" * 65536)
                    await writer.drain()
            await writer.drain()
        writer.close()


@dataclass
class Place:
    quota: Quota
    bus: Bus
    receiver: Receiver

    async def add(self, team: str, path: str = "/hook", **fields: Any) -> hooks.CreateWebhookResponse:
        url = path if "://" in path else f"http://localhost:{self.receiver.port}{path}"
        asked = hooks.CreateWebhookRequest(
            parent=f"teams/{team}", webhook=webhook_pb2.Webhook(url=url, **fields)
        )
        return await (await self.quota.webhooks()).CreateWebhook(asked)

    async def tell(self, team: str, *, name: str = "digits", times: int = 1) -> str:
        """A job of this team has finished."""
        uid = new_uid()
        event = events_pb2.SchedulerEvent(id=new_uid(), actor="users/ada")
        event.time.GetCurrentTime()
        event.job_finished.job.CopyFrom(
            job_pb2.Job(
                name=f"teams/{team}/jobs/{uid}",
                uid=uid,
                display_name=name,
                state=job_pb2.Job.FAILED,
                spec=job_pb2.JobSpec(run="python train.py --key hidden-in-the-command"),
            )
        )
        for time in range(times):
            where = subject("scheduler", "job", "finished", team, uid)
            await self.bus.publish(where, event.SerializeToString(), msg_id=f"{event.id}-{time}")
        return uid

    async def deliveries(self, hook: str, wanted: Callable[[list[Delivery]], bool]) -> list[Delivery]:
        stub = await self.quota.webhooks()
        async with asyncio.timeout(30):
            while True:
                asked = hooks.ListWebhookDeliveriesRequest(parent=hook)
                found = list((await stub.ListWebhookDeliveries(asked)).deliveries)
                if wanted(found):
                    return found
                await asyncio.sleep(0.05)


@pytest_asyncio.fixture
async def place(database_url: Callable[[str], str], nats_url: str, tmp_path: Path) -> AsyncIterator[Place]:
    receiver = Receiver()
    server = await asyncio.start_server(receiver.serve, "127.0.0.1", 0)
    receiver.port = server.sockets[0].getsockname()[1]
    async with (
        running(
            postgres_url=database_url("quota"),
            nats_url=nats_url,
            folder=tmp_path,
            data_dir=tmp_path,
            webhook_networks="127.0.0.0/8, ::1",
        ) as quota,
        connect(nats_url, name="scheduler") as bus,
    ):
        for name in ("SCHEDULER", "TRACKER"):
            await bus.ensure_stream(name, STREAMS[name])
        yield Place(quota, bus, receiver)
    server.close()


def ended(found: list[Delivery]) -> bool:
    return bool(found) and all(one.state == Delivery.DELIVERED for one in found)


async def test_a_fact_is_told_once_and_signed(place: Place) -> None:
    team = await place.quota.team()
    made = await place.add(team, "/a/path-with-a-secret", events=["job."], display_name="ops")
    uid = await place.tell(team, times=2)
    (delivery,) = await place.deliveries(made.webhook.name, ended)
    assert (delivery.event, delivery.status, delivery.attempts) == ("job.finished", 200, 1)
    ((first, headers, sent),) = place.receiver.heard
    assert first == "POST /a/path-with-a-secret HTTP/1.1"
    assert headers["host"] == f"localhost:{place.receiver.port}"
    seconds, _, mac = headers["cairn-signature"].removeprefix("t=").partition(",v1=")
    signed = hmac.new(made.secret.encode(), f"{seconds}.".encode() + sent, hashlib.sha256).hexdigest()
    assert mac == signed
    told = json.loads(sent)
    assert (told["type"], told["team"]) == ("job.finished", team)
    assert told["data"] == {
        "name": f"teams/{team}/jobs/{uid}", "uid": uid, "actor": "users/ada", "display_name": "digits",
        "state": "FAILED",
    }  # fmt: skip
    # Neither the URL nor the secret stands anywhere in the clear.
    assert made.webhook.url == ""
    kept = str(await place.quota.db.fetch("SELECT * FROM webhooks"))
    noted = str(await place.quota.db.fetch("SELECT * FROM audit_entries"))
    assert not any(word in kept + noted for word in (made.secret, "path-with-a-secret"))


async def test_a_team_is_told_of_itself_alone(place: Place) -> None:
    mine, theirs = await place.quota.team(), await place.quota.team()
    made = await place.add(mine, format=webhook_pb2.Webhook.SLACK, events=["job.finished"])
    await place.tell(theirs, name="hidden")
    await place.tell(mine, name="<!here>")
    await place.deliveries(made.webhook.name, ended)
    assert [json.loads(sent) for _, _, sent in place.receiver.heard] == [
        {"text": f"{mine}: job finished &lt;!here&gt; (failed)"}
    ]
    owner = await place.quota.member(theirs, token_pb2.ROLE_OWNER)
    stub = await place.quota.webhooks(owner)
    asked = hooks.ListWebhookDeliveriesRequest(parent=made.webhook.name)
    assert (await problem(stub.ListWebhookDeliveries(asked))).reason is Reason.TEAM_NOT_FOUND
    asked.parent = f"teams/{theirs}/webhooks/{made.webhook.uid}"
    assert (await problem(stub.ListWebhookDeliveries(asked))).reason is Reason.WEBHOOK_NOT_FOUND


async def test_what_is_not_taken_is_sent_again_and_no_redirect_is_followed(place: Place) -> None:
    team = await place.quota.team()
    trap = f"302 Found|Location: http://127.0.0.1:{place.receiver.port}/inside\r\n"
    place.receiver.answers = ["500 Oops", trap]
    made = await place.add(team)
    await place.tell(team)
    # While the next try is under way the outcome of the one before it still stands there.
    answered = lambda status: lambda found: bool(found) and found[0].status == status  # noqa: E731
    (first,) = await place.deliveries(made.webhook.name, answered(500))
    assert (first.state, first.status, first.error) == (Delivery.PENDING, 500, "it answered 500")
    assert first.next_time.ToSeconds() - first.try_time.ToSeconds() >= 10
    await due(place, first)
    (second,) = await place.deliveries(made.webhook.name, answered(302))
    assert (second.attempts, second.error) == (2, "it answered 302")
    assert not any("/inside" in heard[0] for heard in place.receiver.heard)
    await due(place, second)
    (third,) = await place.deliveries(made.webhook.name, ended)
    assert third.attempts == 3
    assert len({headers["cairn-delivery"] for _, headers, _ in place.receiver.heard}) == 1


async def due(place: Place, delivery: Delivery) -> None:
    """The wait is over; a fact for another team's webhook wakes the sender."""
    await place.quota.db.execute(
        "UPDATE webhook_deliveries SET next_time = now() WHERE uid = $1", delivery.uid
    )
    other = await place.quota.team()
    await place.add(other, "http://169.254.169.254/latest", events=["job.finished"])
    await place.tell(other)


async def test_an_endless_answer_is_not_read_to_its_end(place: Place) -> None:
    team = await place.quota.team()
    place.receiver.answers = ["207 Much"]
    made = await place.add(team)
    await place.tell(team)
    (delivery,) = await place.deliveries(made.webhook.name, ended)
    assert delivery.status == 207


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest/meta-data",
        "http://[::ffff:10.0.0.1]/",
        "https://10.0.0.1:8443/x",
        # 10.0.0.1 as one number, in hexadecimal, in octal, and with parts left out.
        "http://167772161/",
        "http://0x0a000001/",
        "http://012.0.0.1/",
        "http://10.1/",
    ],
)
async def test_what_lies_inside_is_not_spoken_to(place: Place, url: str) -> None:
    team = await place.quota.team()
    made = await place.add(team, url)
    await place.tell(team)
    (delivery,) = await place.deliveries(
        made.webhook.name, lambda found: bool(found) and bool(found[0].error)
    )
    assert delivery.status == 0
    assert "leads to an address that is not public" in delivery.error
    await (await place.quota.webhooks()).DeleteWebhook(hooks.DeleteWebhookRequest(name=made.webhook.name))


async def test_what_a_name_leads_to_later_is_not_spoken_to(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that leads to a good address when it is looked at, and to another at the next look."""
    asked: list[str] = []

    def resolve(host: str, port: int, *rest: Any, **named: Any) -> list[Any]:
        if host != "rebind.example":
            return real(host, port, *rest, **named)
        asked.append(host)
        address = "127.0.0.1" if len(asked) == 1 else "169.254.169.254"
        return real(address, port, *rest, **named)

    real = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    team = await place.quota.team()
    made = await place.add(team, f"http://rebind.example:{place.receiver.port}/hook")
    await place.tell(team)
    (delivery,) = await place.deliveries(made.webhook.name, ended)
    assert (delivery.status, delivery.error) == (200, "")
    assert place.receiver.heard[-1][1]["host"] == f"rebind.example:{place.receiver.port}"
    assert len(asked) == 1, "it was looked up again to connect"


async def test_what_is_no_address_or_no_event_is_refused(place: Place) -> None:
    team = await place.quota.team()
    for url in ("ftp://x/y", "file:///etc/passwd", "http://", "http://u:p@x/", "http://x\r\nHost: y/", "x"):
        asked = hooks.CreateWebhookRequest(parent=f"teams/{team}", webhook=webhook_pb2.Webhook(url=url))
        assert (
            await problem((await place.quota.webhooks()).CreateWebhook(asked))
        ).reason is Reason.FIELD_INVALID
    odd = webhook_pb2.Webhook(url="https://x/", events=["job.exploded"])
    asked = hooks.CreateWebhookRequest(parent=f"teams/{team}", webhook=odd)
    error = await problem((await place.quota.webhooks()).CreateWebhook(asked))
    assert "job.finished" in error.message
    viewer = await place.quota.member(team, token_pb2.ROLE_VIEWER)
    listing = (await place.quota.webhooks(viewer)).ListWebhooks(
        hooks.ListWebhooksRequest(parent=f"teams/{team}")
    )
    assert (await problem(listing)).reason is Reason.ROLE_TOO_LOW

"""Histograms, tables and images in the tracker: each place once, and for the team alone."""

from __future__ import annotations

import hashlib
import random
from typing import Any

import httpx
import pytest
from google.protobuf.message import Message

from cairn.job.v1 import events_pb2
from cairn.tracker.v1 import media_pb2, media_pb2_grpc
from cairn_common.ids import new_uid
from tests.harness.parts import refused, upload
from tests.harness.tracker import MEMBER, RUN, STRANGER, VIEWER, Client, Spool, Tracker, run_name

HISTOGRAM = events_pb2.MediaItem.KIND_HISTOGRAM
TABLE = events_pb2.MediaItem.KIND_TABLE
IMAGE = events_pb2.MediaItem.KIND_IMAGE


def item(data: bytes, *, inside: bool = True, kind: int = HISTOGRAM, media_type: str = "application/json",
         caption: str = "") -> events_pb2.MediaItem:  # fmt: skip
    return events_pb2.MediaItem(
        kind=events_pb2.MediaItem.Kind.ValueType(kind), media_type=media_type, size=len(data),
        digest=hashlib.sha256(data).hexdigest(), data=data if inside else b"", caption=caption,
    )  # fmt: skip


def picture(size: int = 20_000) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + random.Random(size).randbytes(size)


def image(data: bytes) -> events_pb2.MediaItem:
    return item(data, inside=False, kind=IMAGE, media_type="image/png")


def logged(
    spool: Spool, key: str, step: int, *items: events_pb2.MediaItem, time: float = 1_700_000_000.0
) -> events_pb2.JobEvent:
    event = spool.event()
    event.media_logged.MergeFrom(events_pb2.MediaLogged(key=key, step=step, time=time, items=items))
    return event


def service(client: Client, token: str = MEMBER) -> Any:
    return client.stub(media_pb2_grpc.MediaServiceStub, token)


async def listed(client: Client, run: str, **fields: object) -> list[media_pb2.Media]:
    """All pages."""
    found: list[media_pb2.Media] = []
    request = media_pb2.ListMediaRequest(parent=run_name(run), **fields)  # type: ignore[arg-type]
    while True:
        page = await service(client).ListMedia(request)
        found += page.media
        if not page.next_page_token:
            return found
        request.page_token = page.next_page_token


def get(run: str, key: str, step: int, index: int = 0) -> media_pb2.GetMediaRequest:
    return media_pb2.GetMediaRequest(parent=run_name(run), key=key, step=step, index=index)


async def test_each_place_is_there_once_whatever_comes_twice_and_in_which_order(tracker: Tracker) -> None:
    run = new_uid()
    first, second = Spool(run, attempt=1), Spool(run, attempt=2)
    events = [
        *(logged(first, "weights", step, item(b"old %d" % step)) for step in range(6)),
        logged(first, "weights", 5, item(b"newer 5"), item(b"and one more"), time=1_700_000_001.0),
        logged(second, "weights", 3, item(b"of attempt 2"), time=1.0),
        logged(second, "tables/a", 7, item(b"{}", kind=TABLE, caption="nul \0 cap")),
    ]
    late = logged(first, "weights", 3, item(b"of attempt 1, later"), time=1_800_000_000.0)
    async with Client(tracker) as client:
        await client.publish(*events, *random.Random(3).sample(events, 5))
        await client.publish(late, *events)
        await client.applied(late)
        everything = await listed(client, run)
        assert [(each.key, each.step) for each in everything] == [
            ("tables/a", 7), *(("weights", step) for step in range(6))
        ]  # fmt: skip
        data = {each.step: [bytes(one.data) for one in each.items] for each in everything[1:]}
        assert data[3] == [b"of attempt 2"]
        assert data[5] == [b"newer 5", b"and one more"]
        assert everything[0].items[0].caption == "nul \N{REPLACEMENT CHARACTER} cap"
        assert everything == await listed(client, run, page_size=2)
        assert [each.step for each in await listed(client, run, key="weights", start_step=2, end_step=4)] == [
            2,
            3,
        ]
        latest = await listed(client, run, latest_only=True, page_size=1)
        assert [(each.key, each.step, each.count) for each in latest] == [
            ("tables/a", 7, 1),
            ("weights", 5, 6),
        ]
        content = await service(client, RUN + run).GetMedia(get(run, "weights", 5, 1))
        assert content.item.data == b"and one more"


async def test_bytes_in_the_store_come_once_they_are_there(tracker: Tracker) -> None:
    run = new_uid()
    small, large = picture(), picture(3 * 2**20)
    event = logged(Spool(run), "sample", 1, image(small), image(large))
    async with Client(tracker) as client:
        await client.publish(event)
        await client.applied(event)
        held = await client.postgres.fetchval("SELECT count(*) FROM holdings WHERE holder = $1", run)
        assert held == 2, "the run keeps them, so they are not collected"
        for index in (0, 1):
            assert await refused(service(client).GetMedia(get(run, "sample", 1, index))) == "NOT_FOUND"
        await upload(client, small, large)
        found = await service(client, VIEWER).GetMedia(get(run, "sample", 1))
        assert (found.item.data, found.url, found.item.media_type) == (small, "", "image/png")
        found = await service(client, VIEWER).GetMedia(get(run, "sample", 1, 1))
        assert not found.item.data
        async with httpx.AsyncClient(trust_env=False) as http:
            assert (await http.get(found.url)).content == large


async def test_what_cannot_be_kept_is_counted_and_stops_nothing(tracker: Tracker) -> None:
    run, spool = new_uid(), Spool(new_uid())
    spool.run = run
    good = item(b"good")
    wrong = item(b"good")
    wrong.digest = "0" * 64
    svg = item(b"<svg/>", kind=IMAGE, media_type="image/svg+xml")
    huge = image(b"x")
    huge.size = 2**40
    bad = [
        logged(spool, "", 1, good), logged(spool, "a\nb", 1, good), logged(spool, "k" * 251, 1, good),
        logged(spool, "k", -1, good), logged(spool, "k", 2**60, good), logged(spool, "k", 1),
        logged(spool, "k", 1, *[good] * 65), logged(spool, "k", 1, wrong), logged(spool, "k", 1, svg),
        logged(spool, "k", 1, huge), logged(spool, "k", 1, item(b"x" * 9_000)),
        logged(spool, "k", 1, events_pb2.MediaItem()),
    ]  # fmt: skip
    fine = logged(spool, "fine", 2, good, time=float("nan"))
    async with Client(tracker) as client:
        await client.publish(*bad, fine, *bad)
        await client.applied(fine)
        assert [each.key for each in await listed(client, run)] == ["fine"]
        rejected = await client.postgres.fetchval("SELECT rejected_points FROM runs WHERE uid = $1", run)
        assert rejected == len(bad)


async def test_nobody_sees_another_teams_or_another_runs(tracker: Tracker) -> None:
    run = new_uid()
    event = logged(Spool(run), "k", 1, item(b"secret"))
    async with Client(tracker) as client:
        await client.publish(event)
        await client.applied(event)
        for token in (STRANGER, RUN + new_uid()):
            calls = service(client, token)
            asked = media_pb2.ListMediaRequest(parent=run_name(run))
            assert await refused(calls.ListMedia(asked)) == "NOT_FOUND"
            assert await refused(calls.GetMedia(get(run, "k", 1))) == "NOT_FOUND"
            assert await refused(calls.GetMedia(get(new_uid(), "k", 1))) == "NOT_FOUND"


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (get("", "k", 1), "INVALID_ARGUMENT"),
        (get("{run}", "", 1), "INVALID_ARGUMENT"),
        (get("{run}", "k", 2), "NOT_FOUND"),
        (get("{run}", "k", -1), "NOT_FOUND"),
        (get("{run}", "k", 2**62), "NOT_FOUND"),
        (get("{run}", "k", 1, 1), "NOT_FOUND"),
        (get("{run}", "k", 1, -1), "NOT_FOUND"),
        (media_pb2.ListMediaRequest(parent=run_name("{run}"), key="a\0"), "INVALID_ARGUMENT"),
        (media_pb2.ListMediaRequest(parent=run_name("{run}"), start_step=-1), "INVALID_ARGUMENT"),
        (media_pb2.ListMediaRequest(parent=run_name("{run}"), page_size=-1), "INVALID_ARGUMENT"),
        (media_pb2.ListMediaRequest(parent=run_name("{run}"), page_token="!"), "INVALID_ARGUMENT"),
    ],
)
async def test_a_wrong_question_is_answered_as_one(tracker: Tracker, request_: Message, code: str) -> None:
    run = new_uid()
    event = logged(Spool(run), "k", 1, item(b"x"))
    request_.parent = request_.parent.replace("{run}", run)  # type: ignore[attr-defined]
    async with Client(tracker) as client:
        await client.publish(event)
        await client.applied(event)
        calls = service(client)
        if isinstance(request_, media_pb2.GetMediaRequest):
            assert await refused(calls.GetMedia(request_)) == code
        elif isinstance(request_, media_pb2.ListMediaRequest):
            assert await refused(calls.ListMedia(request_)) == code

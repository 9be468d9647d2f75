"""What headers ask for: tags, keys, packed bodies and ids of requests, on every route that there is."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest

from cairn.quota.v1 import team_pb2
from cairn.tracker.v1 import run_pb2
from cairn_common.errors import Aborted
from cairn_gateway.http import CODE, ENTRIES, ROUTES, Route
from tests.harness.gateway import Neighbours, bearer, gateway, neighbours
from tests.harness.packed import zstd

TOKEN = "cairn_0123456789abcdef-ada"
READS = [route for route in ROUTES if route.method == "GET"]
WRITES = [route for route in ROUTES if route.method != "GET"]
PACK: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "zstd": zstd.compress}
UNPACK: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.decompress, "zstd": zstd.decompress}


@pytest.fixture
async def behind() -> AsyncIterator[Neighbours]:
    async with neighbours() as made:
        made.caller(TOKEN, "main")
        yield made


@pytest.fixture
async def client(behind: Neighbours, nats_url: str) -> AsyncIterator[httpx.AsyncClient]:
    async with gateway(nats_url, behind.address) as made:
        made.headers.update(bearer(TOKEN))
        yield made


def url(route: Route) -> str:
    """Its path with something in it."""
    return "/api/v1" + route.path.format(**dict.fromkeys(route.parameters, "main"))


def body(route: Route) -> dict[str, object]:
    """The least that it takes: of a PATCH something to change."""
    if route.method != "PATCH":
        return {}
    assert route.body is not None
    return {"display_name": "x"} if "display_name" in route.body.fields_by_name else {"retention": []}


async def test_what_a_client_has_is_not_sent_again(client: httpx.AsyncClient) -> None:
    for route in READS:
        first = await client.get(url(route))
        assert first.status_code == 200, route
        tag = first.headers["etag"]
        for given in (tag, f"W/{tag}", f'"other", {tag}', "*"):
            again = await client.get(url(route), headers={"If-None-Match": given})
            assert (again.status_code, again.content, again.headers["etag"]) in (
                (304, b"", tag),
                (304, b"", f"W/{tag}"),
            ), (route, given)
        for given in ('"other"', "junk", ""):
            assert (await client.get(url(route), headers={"If-None-Match": given})).status_code == 200
        for given, status in (('"other"', 412), (tag, 200), (f"W/{tag}", 412), ("*", 200), ("junk", 400)):
            answer = await client.get(url(route), headers={"If-Match": given})
            assert answer.status_code == status, (route, given)
        assert "no-store" not in first.headers["cache-control"]
        assert "private" in first.headers["cache-control"]


async def test_another_answer_has_another_tag(client: httpx.AsyncClient, behind: Neighbours) -> None:
    behind.answers["GetTeam"] = team_pb2.Team(name="teams/main", etag="7")
    tag = (await client.get("/api/v1/teams/main")).headers["etag"]
    assert tag.startswith('"7.')
    behind.answers["GetTeam"] = team_pb2.Team(name="teams/main", etag="7", held=team_pb2.Amounts(jobs=1))
    other = await client.get("/api/v1/teams/main", headers={"If-None-Match": tag})
    assert (other.status_code, other.headers["etag"][:3]) == (200, '"7.')


async def test_a_change_asks_for_what_was_read(client: httpx.AsyncClient, behind: Neighbours) -> None:
    behind.answers["GetRun"] = run_pb2.Run(name="teams/main/runs/01a", etag="41", display_name="x" * 2000)
    run = "/api/v1/teams/main/runs/01a"
    for coding in ("identity", "gzip", "zstd"):
        tag = (await client.get(run, headers={"Accept-Encoding": coding})).headers["etag"]
        again = await client.get(run, headers={"Accept-Encoding": coding, "If-None-Match": tag})
        assert again.status_code == 304
        answer = await client.patch(run, json={"tags": ["a"]}, headers={"If-Match": tag})
        assert answer.status_code == 200, answer.text
        assert behind.heard("UpdateRun").request.run.etag == "41"
    await client.patch(run, json={"tags": ["a"]}, headers={"If-Match": '"40"'})
    assert behind.heard("UpdateRun").request.run.etag == "40"
    await client.patch(run, json={"tags": ["a"]}, headers={"If-Match": "*"})
    assert behind.heard("UpdateRun").request.run.etag == ""
    before = len(behind.calls)
    for given, status in (('W/"41.x"', 412), ("41", 400), ('"41.x", "42.x"', 400), ('".x"', 400), ("", 200)):
        answer = await client.patch(run, json={"tags": ["a"]}, headers={"If-Match": given})
        assert answer.status_code == status, given
    assert (await client.patch(run, json={"etag": "2", "tags": []}, headers={"If-Match": '"3"'})).is_error
    assert sum(call.method == "UpdateRun" for call in behind.calls[before:]) == 1
    behind.answers["UpdateRun"] = Aborted("somebody was faster")
    late = await client.patch(run, json={"tags": ["a"]}, headers={"If-Match": '"41.x"'})
    assert (late.status_code, late.json()["reason"]) == (412, "ETAG_MISMATCH")


async def test_no_route_passes_over_what_it_cannot_hold(
    client: httpx.AsyncClient, behind: Neighbours
) -> None:
    """Each that changes something takes If-Match and Idempotency-Key, or says that it does not."""
    for route in WRITES:
        before = len(behind.calls)
        answer = await client.request(route.method, url(route), json=body(route), headers={"If-Match": '"7"'})
        assert answer.status_code == (200 if route.etag else 400), (route, answer.text)
        key = {"Idempotency-Key": "key-1"}
        answer = await client.request(route.method, url(route), json=body(route), headers=key)
        assert answer.status_code == (200 if route.has_request_id else 400), (route, answer.text)
        heard = [call for call in behind.calls[before:] if call.method == route.descriptor.name]
        assert len(heard) == bool(route.etag) + route.has_request_id
        assert not route.has_request_id or heard[-1].request.request_id == "key-1"
    assert {route.rpc.partition("/")[2] for route in WRITES if route.etag} == {
        *("UpdateRun", "UpdateTeam", "ApplyTree", "SetKeeping"),
    }


async def test_keys_that_are_none(client: httpx.AsyncClient, behind: Neighbours) -> None:
    path = "/api/v1/teams/main/runs"
    for given in ("", "a b", "x" * 65, "\x7f", '""'):
        answer = await client.post(path, json={}, headers={"Idempotency-Key": given})
        assert (answer.status_code, answer.json()["metadata"]["path"]) == (400, "Idempotency-Key"), given
    twice = [("Idempotency-Key", "a"), ("Idempotency-Key", "b")]
    assert (await client.post(path, json={}, headers=twice)).status_code == 400
    two = await client.post(path, json={"request_id": "a"}, headers={"Idempotency-Key": "b"})
    assert (two.status_code, two.json()["metadata"]["path"]) == (400, "request_id")
    assert not [call for call in behind.calls if call.method == "CreateRun"]
    # The form that the working group of HTTP gives it, too.
    assert (await client.post(path, json={}, headers={"Idempotency-Key": '"a-1"'})).status_code == 200
    assert behind.heard("CreateRun").request.request_id == "a-1"


@pytest.mark.parametrize("coding", PACK)
async def test_bodies_come_packed(client: httpx.AsyncClient, behind: Neighbours, coding: str) -> None:
    path, kind = "/api/v1/teams/main/jobs", {"Content-Type": "application/json", "Content-Encoding": coding}
    noise = random.Random(1).randbytes(30_000).hex()
    text = json.dumps({"task": noise}).encode()
    packed = PACK[coding](text)

    async def sent(content: Any, **headers: str) -> int:
        return (await client.post(path, content=content, headers=kind | headers)).status_code

    async def in_pieces(whole: bytes) -> AsyncIterator[bytes]:
        for start in range(0, len(whole), 1000):
            yield whole[start : start + 1000]

    assert await sent(packed) == await sent(in_pieces(packed)) == 200
    assert behind.heard("CreateJob").request.task == noise
    before = len(behind.calls)
    assert await sent(packed[:-5]) == 400, "it is cut short"
    assert await sent(packed + b"x") == 400, "something comes behind it"
    assert await sent(packed + packed) == 400
    assert await sent(text) == 400, "it is not packed at all"
    assert await sent(packed, **{"Content-Encoding": f"{coding}, {coding}"}) == 415
    bomb = PACK[coding](b" " * (64 << 20))
    assert len(bomb) < 80_000
    assert await sent(bomb) == await sent(in_pieces(bomb)) == 413
    assert not [call for call in behind.calls[before:] if call.method == "CreateJob"]
    assert await sent(PACK[coding](b"")) == 200


async def test_answers_go_out_as_the_client_reads_them(client: httpx.AsyncClient, behind: Neighbours) -> None:
    behind.answers["GetTeam"] = team_pb2.Team(name="teams/main", display_name="x" * 5000)
    plain = (await client.get("/api/v1/teams/main", headers={"Accept-Encoding": "identity"})).content
    for accepted, coding in (
        ("gzip", "gzip"), ("zstd", "zstd"), ("gzip, zstd", "zstd"), ("zstd;q=0, gzip", "gzip"),
        ("br", None), ("gzip;q=0", None),
    ):  # fmt: skip
        headers = {"Accept-Encoding": accepted}
        async with client.stream("GET", "/api/v1/teams/main", headers=headers) as answer:
            raw = b"".join([piece async for piece in answer.aiter_raw()])
        assert answer.headers.get("content-encoding") == coding, accepted
        assert "Accept-Encoding" in answer.headers["vary"]
        assert (UNPACK[coding](raw) if coding else raw) == plain
    tags = set()
    for accepted in ("identity", "gzip", "zstd"):
        answer = await client.get("/api/v1/teams/main", headers={"Accept-Encoding": accepted})
        tags.add(answer.headers["etag"])
    assert len(tags) == 3, "other bytes, another tag"


async def test_every_answer_says_which_request_it_answers(
    client: httpx.AsyncClient, behind: Neighbours
) -> None:
    for number, route in enumerate((*ROUTES, *ENTRIES, CODE)):
        sent = {"X-Request-Id": f"walk-{number}"}
        answer = await client.request(
            route.method, url(route), headers=sent, **({} if route.method == "GET" else {"json": body(route)})
        )
        assert answer.headers["x-request-id"] == sent["X-Request-Id"], route
        if answer.status_code >= 400:
            assert answer.json()["request_id"] == sent["X-Request-Id"]
        elif route.operation_id != "EndSession":
            assert behind.heard(route.descriptor.name).request_id == sent["X-Request-Id"], route

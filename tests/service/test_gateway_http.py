"""The HTTP API over real sockets: who gets in, what is refused, what arrives at the services."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from nats.js.api import AckPolicy, ConsumerConfig

from cairn.scheduler.v1 import job_pb2
from cairn.tracker.v1 import metric_pb2, tracker_pb2
from cairn_common import bus
from cairn_common.errors import Aborted, NotFound, Reason
from cairn_common.subjects import INGEST, team_stream, team_subjects
from cairn_gateway.http import CODE, ENTRIES, PLATFORM, ROUTES, people
from cairn_gateway.http.limits import MOST_REQUESTS_EACH
from cairn_gateway.listen import listen
from tests.harness import servers
from tests.harness.gateway import Neighbours, bearer, gateway, neighbours

TOKEN = "cairn_0123456789abcdef-ada"
JUNK = "cairn_junkjunkjunkjunkjunk"
PATHS = [
    *((route.method, f"/api/v1{route.path}") for route in (*ROUTES, people.SIGN_OUT, PLATFORM, CODE)),
    ("GET", "/api/v1/teams/{team}/events"),
    ("GET", "/api/v1/streams/bus"),
    ("GET", "/api/v1/openapi.json"),
]


@pytest.fixture
async def behind() -> AsyncIterator[Neighbours]:
    async with neighbours() as made:
        made.caller(TOKEN, "main")
        yield made


@pytest.fixture
async def client(behind: Neighbours, nats_url: str) -> AsyncIterator[httpx.AsyncClient]:
    async with gateway(nats_url, behind.address) as made:
        yield made


def filled(path: str) -> str:
    for name in ("team", "job", "run", "sweep", "artifact", "version", "token", "digest"):
        path = path.replace(f"{{{name}}}", "main")
    return path


async def raw_status(client: httpx.AsyncClient, target: bytes, *, token: str = "") -> int:
    """The status for a target as it stands: clients tidy up before they send."""
    reader, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port)
    lines = [b"GET %s HTTP/1.1" % target, b"Host: localhost", b"Connection: close"]
    if token:
        lines.append(b"Authorization: Bearer " + token.encode())
    writer.write(b"\r\n".join([*lines, b"", b""]))
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    await writer.wait_closed()
    return int(answer.split()[1])


def problem(response: httpx.Response) -> dict[str, Any]:
    assert response.headers["content-type"] == "application/problem+json"
    told: dict[str, Any] = response.json()
    assert told["status"] == response.status_code
    assert told["request_id"] == response.headers["x-request-id"]
    assert "Traceback" not in response.text
    return told


async def test_no_route_answers_without_a_good_token(client: httpx.AsyncClient, behind: Neighbours) -> None:
    for method, path in PATHS:
        for headers in ({}, bearer(JUNK), {"Authorization": f"Basic {TOKEN}"}, {"Authorization": "Bearer"}):
            response = await client.request(method, filled(path), headers=headers)
            assert response.status_code == 401, (method, path, headers)
            assert problem(response)["reason"].startswith("TOKEN_")
    assert {call.method for call in behind.calls} == {"CheckToken"}


async def test_two_tokens_at_once_are_none(client: httpx.AsyncClient) -> None:
    headers = [("Authorization", f"Bearer {TOKEN}"), ("Authorization", f"Bearer {JUNK}")]
    assert (await client.get("/api/v1/me", headers=headers)).status_code == 401


async def test_health_and_the_page_are_open(client: httpx.AsyncClient) -> None:
    assert (await client.get("/healthz")).json() == {"status": "ok"}
    page = await client.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
    assert page.headers["x-content-type-options"] == "nosniff"
    for name in ("main.js", "api.js", "chart.js", "page.css", "icon.svg"):
        file = await client.get(f"/web/{name}")
        assert file.status_code == 200
        assert (
            f'"/web/{name}"' in page.text
            or f'"./{name}"'
            in (await client.get("/web/main.js")).text + (await client.get("/web/run.js")).text
        )
        again = await client.get(f"/web/{name}", headers={"If-None-Match": file.headers["etag"]})
        assert again.status_code == 304


@pytest.mark.parametrize(
    "target",
    [
        b"//api/v1/me",
        b"/api//v1/me",
        b"/api/v1/me/",
        b"/api/v1/./me",
        b"/api/v1/x/../me",
        b"/api/v1/x/%2e%2e/me",
        b"/API/v1/me",
        b"/api/v1/teams/main/runs/..",
        b"/api/v1/teams/main%2Fruns/x",
        b"/web/../app.py",
        b"/web/%2e%2e%2fapp.py",
        b"/web/..%5capp.py",
        b"/nowhere",
        b"/api/v1/teams/main/jobs/x%00y/z",
    ],
)
async def test_other_spellings_of_a_path_lead_nowhere(
    client: httpx.AsyncClient, behind: Neighbours, target: bytes
) -> None:
    assert await raw_status(client, target, token=TOKEN) == 404
    assert await raw_status(client, target) in (401, 404)
    assert not [call for call in behind.calls if call.method != "CheckToken"]


async def test_a_method_is_what_the_request_line_says(client: httpx.AsyncClient, behind: Neighbours) -> None:
    headers = {**bearer(TOKEN), "X-HTTP-Method-Override": "PATCH"}
    assert (await client.get("/api/v1/teams/main", headers=headers)).status_code == 200
    assert [call.method for call in behind.calls if call.method != "CheckToken"] == ["GetTeam"]
    for method in ("PUT", "DELETE", "OPTIONS", "HEAD", "TRACE"):
        response = await client.request(method, "/api/v1/teams/main", headers=bearer(TOKEN))
        assert response.status_code == 405
        assert "access-control-allow-origin" not in response.headers


async def test_another_host_name_is_refused(client: httpx.AsyncClient) -> None:
    for path in ("/", "/api/v1/me", "/web/main.js"):
        response = await client.get(path, headers={**bearer(TOKEN), "Host": "evil.example"})
        assert response.status_code == 421
    assert (await client.get("/healthz", headers={"Host": "10.0.0.7"})).status_code == 200


async def test_bodies_that_cannot_be_used(client: httpx.AsyncClient, behind: Neighbours) -> None:
    url, kind = "/api/v1/teams/main/jobs", {"Content-Type": "application/json"}
    large = b'{"task": "' + b"x" * (9 * 2**20) + b'"}'

    async def chunked() -> AsyncIterator[bytes]:
        for start in range(0, len(large), 2**16):
            yield large[start : start + 2**16]

    async def refused(status: int, content: Any, headers: dict[str, str]) -> dict[str, Any]:
        response = await client.post(url, content=content, headers={**bearer(TOKEN), **headers})
        assert response.status_code == status, response.text
        return problem(response)

    await refused(413, large, kind)
    await refused(413, chunked(), kind)
    await refused(415, b"task=x", {"Content-Type": "application/x-www-form-urlencoded"})
    await refused(415, b"{}", {"Content-Type": "text/plain"})
    await refused(415, b"{}", {**kind, "Content-Encoding": "br"})
    for text in (b"{", b'{"task": "a", "task": "b"}', b"[]", b"null", b"[" * 9000, b'{"task": NaN}', b"\xff"):
        await refused(400, text, kind)
    told = await refused(400, b'{"code": {"digits": "x"}}', kind)
    assert told["metadata"]["path"] == "code.digits"
    assert "parent" in (await refused(400, b'{"parent": "teams/other"}', kind))["detail"]
    assert not [call for call in behind.calls if call.method == "CreateJob"]


async def test_the_caller_s_own_token_and_request_id_go_on(
    client: httpx.AsyncClient, behind: Neighbours
) -> None:
    behind.answers["CreateJob"] = job_pb2.Job(uid="01j", state=job_pb2.Job.PENDING)
    body = {"task": "run: true", "request_id": "r-1", "code": {"digest": "ab", "size": 2**40}}
    response = await client.post(
        "/api/v1/teams/main/jobs",
        json=body,
        headers={**bearer(TOKEN), "X-Request-Id": "mine-1", "Traceparent": f"00-{'4b' * 16}-{'0f' * 8}-01"},
    )
    assert (response.status_code, response.headers["x-request-id"]) == (200, "mine-1")
    assert response.json()["state"] == "PENDING"
    call = behind.heard("CreateJob")
    assert (call.token, call.request_id) == (TOKEN, "mine-1")
    version, trace, parent, flags = call.traceparent.split("-")
    assert (version, trace, flags) == ("00", "4b" * 16, "01")
    assert parent != "0f" * 8
    assert (call.request.parent, call.request.code.size) == ("teams/main", 2**40)
    forged = await client.get("/api/v1/me", headers={**bearer(TOKEN), "X-Request-Id": "a b\tc"})
    assert forged.headers["x-request-id"] != "a b\tc"


async def test_requests_are_translated(client: httpx.AsyncClient, behind: Neighbours) -> None:
    client.headers.update(bearer(TOKEN))
    base = "/api/v1/teams/main"

    async def sent(rpc: str, method: str, path: str, **how: Any) -> Any:
        response = await client.request(method, base + path, **how)
        assert response.status_code == 200, response.text
        return behind.heard(rpc).request

    got = await sent(
        "ListJobs", "GET", "/jobs?states=PENDING,RUNNING&states=FAILED&sweep=01s&page_size=7&experiment="
    )
    assert list(got.states) == [1, 4, 7]
    assert (got.sweep, got.page_size, got.experiment) == ("teams/main/sweeps/01s", 7, "")
    got = await sent(
        "QuerySeries", "GET", "/series?run=01a&run=teams/main/runs/01b&key=loss&key=a,b&max_buckets=9"
    )
    assert list(got.runs) == ["teams/main/runs/01a", "teams/main/runs/01b"]
    assert list(got.keys) == ["loss", "a,b"]
    got = await sent("ListLogLines", "GET", "/runs/01a/logs?rank=0&tail=5")
    assert (got.parent, got.HasField("rank"), got.tail) == ("teams/main/runs/01a", True, 5)
    got = await sent("UpdateRun", "PATCH", "/runs/01a", json={"tags": ["x"], "etag": "7"})
    assert (got.run.name, got.run.etag, list(got.update_mask.paths)) == ("teams/main/runs/01a", "7", ["tags"])
    got = await sent("UpdateTeam", "PATCH", "", json={"limits": {"gpus": 2}})
    assert (got.team.name, got.team.limits.gpus) == ("teams/main", 2)
    got = await sent("CommitVersion", "POST", "/artifacts/m/versions", json={"run": "01a", "entries": []})
    assert (got.parent, got.artifact_id, got.run) == ("teams/main", "m", "teams/main/runs/01a")
    got = await sent("SetAlias", "POST", "/artifacts/m/versions/3:alias", json={"alias": "best"})
    assert (got.name, got.alias) == ("teams/main/artifacts/m/versions/3", "best")
    got = await sent("GetVersion", "GET", "/artifacts/m/versions/best?used_by=01a")
    assert got.used_by == "teams/main/runs/01a"
    got = await sent("ListVersions", "GET", "/runs/01a/checkpoints?page_size=1")
    assert (got.parent, got.run, got.kind) == ("teams/main/artifacts/-", "teams/main/runs/01a", 2)
    got = await sent("CancelJob", "POST", "/jobs/01j:cancel")
    assert got.name == "teams/main/jobs/01j"
    for query in ("state=RUNNING", "states=SLEEPING", "page_size=many", "page_size=1&page_size=2", "kind=1"):
        refused = await client.get(f"{base}/jobs?{query}")
        assert (refused.status_code, bool(problem(refused)["metadata"]["path"])) == (400, True)
    assert (await client.patch(f"{base}/runs/01a", json={})).status_code == 400


async def test_answers_carry_what_json_has_no_number_for(
    client: httpx.AsyncClient, behind: Neighbours
) -> None:
    series = metric_pb2.Series(steps=range(3000), last=[float("nan"), *range(2999)])
    behind.answers["QuerySeries"] = tracker_pb2.QuerySeriesResponse(series=[series])
    response = await client.get("/api/v1/teams/main/series", headers=bearer(TOKEN))
    assert json.loads(response.content, parse_constant=pytest.fail)["series"][0]["last"][:2] == ["NaN", 0.0]


async def test_errors_of_the_services_are_problems(client: httpx.AsyncClient, behind: Neighbours) -> None:
    behind.answers["GetJob"] = NotFound("there is no job x", reason=Reason.JOB_NOT_FOUND, job="x")
    behind.answers["UpdateTeam"] = Aborted("read again")
    told = problem(await client.get("/api/v1/teams/main/jobs/x", headers=bearer(TOKEN)))
    assert (told["status"], told["reason"], told["metadata"]) == (404, "JOB_NOT_FOUND", {"job": "x"})
    told = problem(await client.patch("/api/v1/teams/main", json={"limits": {}}, headers=bearer(TOKEN)))
    assert (told["status"], told["reason"]) == (412, "ETAG_MISMATCH")


async def test_a_service_that_is_away_is_said_to_be_without_its_address(
    behind: Neighbours, nats_url: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
    async with gateway(nats_url, behind.address, tracker_address=address) as client:
        response = await client.get("/api/v1/teams/main/runs", headers=bearer(TOKEN))
        assert (response.status_code, response.headers["retry-after"]) == (503, "1")
        assert "127.0.0.1" not in response.text
        assert "tracker" in problem(response)["detail"]
        platform = (await client.get("/api/v1/platform", headers=bearer(TOKEN))).json()
        serving = {service["name"]: service["serving"] for service in platform["services"]}
        assert serving["tracker"] is False


async def test_what_waits_for_the_tracker_is_told_with_the_platform(
    tmp_path: Path, behind: Neighbours
) -> None:
    server = servers.start_nats(tmp_path / "nats")
    try:
        async with gateway(server.url, behind.address) as client, bus.connect(server.url, name="t") as jobs:
            told = (await client.get("/api/v1/platform", headers=bearer(TOKEN))).json()
            assert "backlog" not in told
            for team, count, limit in (("main", 3, 40_000), ("other", 4, 20_000), ("idle", 0, 10_000)):
                await jobs.ensure_stream(team_stream(team), team_subjects(team), max_bytes=limit)
                for _ in range(count):
                    await jobs.publish(f"cairn.v1.job.run.points-logged.{team}.x", b"1")
            config = ConsumerConfig(durable_name=INGEST, ack_policy=AckPolicy.EXPLICIT)
            await jobs._link.stream.add_consumer(team_stream("main"), config)

            async def told_of() -> dict[str, Any]:
                # It is looked at once a second.
                told = (await client.get("/api/v1/platform", headers=bearer(TOKEN))).json()
                return told.get("backlog", {})

            while int((told := await told_of()).get("messages", 0)) != 7:
                await asyncio.sleep(0.05)
            assert told["oldest_seconds"] >= 0
            # Of the fullest stream, whosever it is; in detail of the caller's teams alone.
            assert int(told["limit_bytes"]) == 20_000
            (own,) = told["teams"]
            assert (own["team"], int(own["messages"]), int(own["limit_bytes"])) == ("teams/main", 3, 40_000)
            assert 0 < int(own["bytes"]) < 40_000
    finally:
        server.stop()


async def test_code_is_where_the_store_has_it(client: httpx.AsyncClient, behind: Neighbours) -> None:
    download = tracker_pb2.CreateDownloadsResponse.Download(url="http://127.0.0.1:9/t/main/blobs/ab?x=1&y=2")
    behind.answers["CreateDownloads"] = tracker_pb2.CreateDownloadsResponse(downloads=[download])
    response = await client.get("/api/v1/teams/main/code/abcd", headers=bearer(TOKEN))
    assert (response.status_code, response.headers["location"]) == (307, download.url)
    assert list(behind.heard("CreateDownloads").request.digests) == ["abcd"]


async def test_one_token_cannot_take_all_the_room(client: httpx.AsyncClient, behind: Neighbours) -> None:
    go = asyncio.Event()

    async def held() -> None:
        await go.wait()

    behind.answers["GetTeam"] = held
    ada = [
        asyncio.create_task(client.get("/api/v1/teams/main", headers=bearer(TOKEN)))
        for _ in range(MOST_REQUESTS_EACH)
    ]
    async with asyncio.timeout(20):
        while sum(call.method == "GetTeam" for call in behind.calls) < MOST_REQUESTS_EACH:
            await asyncio.sleep(0.01)
    limits = httpx.AsyncClient(base_url=client.base_url)
    async with limits as another:
        response = await another.get("/api/v1/teams/main", headers=bearer(TOKEN))
        assert (response.status_code, response.headers["retry-after"]) == (429, "1")
        eve = behind.caller("cairn_0123456789abcdef-eve", "main")
        assert (await another.get("/api/v1/me", headers=bearer(eve))).status_code == 200
    go.set()
    assert {response.status_code for response in await asyncio.gather(*ada)} == {200}


async def test_openapi_says_what_there_is(client: httpx.AsyncClient) -> None:
    document = (await client.get("/api/v1/openapi.json", headers=bearer(TOKEN))).json()
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    assert len(operations) == len(PATHS) - 1 + len(ENTRIES)
    assert len({operation["operationId"] for operation in operations}) == len(operations)
    assert all(operation["summary"].endswith(".") for operation in operations)
    create = document["paths"]["/api/v1/teams/{team}/jobs"]["post"]
    schema = create["requestBody"]["content"]["application/json"]["schema"]
    assert "task" in schema["properties"]
    assert "parent" not in schema["properties"]
    answer = create["responses"]["200"]["content"]["application/json"]["schema"]["$ref"]
    assert answer == "#/components/schemas/scheduler.v1.Job"
    assert "state" in document["components"]["schemas"]["scheduler.v1.Job"]["properties"]


async def test_a_port_that_is_taken_is_said_to_be(behind: Neighbours, nats_url: str) -> None:
    with listen("127.0.0.1:0") as taken:
        bind = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(OSError, match="the port is taken"):
            async with gateway(nats_url, behind.address, http_bind=bind):
                pass

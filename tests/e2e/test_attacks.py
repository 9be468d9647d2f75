"""A running platform, attacked from outside: other teams, leaked tokens, odd requests, secrets left about."""

from __future__ import annotations

import asyncio
import base64
import gzip
import hashlib
import json
import os
import socket
import stat
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import asyncpg
import httpx
import pytest

from cairn_common.ids import new_uid
from cairn_common.paging import encode_token
from tests.harness.browser import browse
from tests.harness.packed import zstd
from tests.harness.people import MAIN, OTHER, People, invite, port_of, secrets_in
from tests.harness.platform import Platform

DATA = b"the secret weights of the team main"
DIGEST = hashlib.sha256(DATA).hexdigest()

# What a job is told of the platform.
GIVEN = {
    "CAIRN_ATTEMPT",
    "CAIRN_ATTEMPT_UID",
    "CAIRN_BUS_URL",
    "CAIRN_NOTICE",
    "CAIRN_PARAMS",
    "CAIRN_RANK",
    "CAIRN_RUN",
    "CAIRN_RUNNER",
    # Names of secrets, not their values.
    "CAIRN_SECRETS",
    "CAIRN_SPOOL",
    "CAIRN_TEAM",
    "CAIRN_TOKEN_FILE",
    "CAIRN_URL",
}


@dataclass(frozen=True)
class Caller:
    """Somebody with a token."""

    http: httpx.Client
    token: str

    def ask(self, method: str, path: str, body: object = None, **headers: str) -> httpx.Response:
        """A request below the API."""
        given = {"Authorization": f"Bearer {self.token}", **headers}
        return self.http.request(method, f"/api/v1{path}", json=body, headers=given)

    def get(self, path: str) -> httpx.Response:
        return self.ask("GET", path)

    def post(self, path: str, body: object) -> httpx.Response:
        return self.ask("POST", path, body)

    def upload(self, team: str, data: bytes) -> int:
        """Sends the bytes where a URL for them is given; how many there were."""
        part = {"digest": hashlib.sha256(data).hexdigest(), "size": len(data)}
        urls = self.post(f"/teams/{team}/uploads", {"parts": [part]}).raise_for_status().json()["uploads"]
        for each in urls:
            self.http.put(each["url"], content=data).raise_for_status()
        return len(urls)

    def commit(self, team: str, artifact: str, data: bytes, **fields: object) -> httpx.Response:
        """Makes a version of one file."""
        part = {"digest": hashlib.sha256(data).hexdigest(), "size": len(data)}
        body = {"entries": [{"path": "f", **part, "parts": [part]}], **fields}
        return self.post(f"/teams/{team}/artifacts/{artifact}/versions", body)


@dataclass(frozen=True)
class Place:
    """The platform with something worth stealing in the team MAIN."""

    platform: Platform
    people: People
    http: httpx.Client
    run: str

    def as_(self, who: str) -> Caller:
        return Caller(self.http, getattr(self.people, who))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    before = os.umask(0)
    try:
        platform = Platform(tmp_path_factory.mktemp("attacks"))
        platform.up()
    finally:
        os.umask(before)
    people = invite(platform.data)
    with httpx.Client(base_url=platform.status()["url"], trust_env=False) as http:
        admin = Caller(http, people.admin)
        run = admin.post(f"/teams/{MAIN}/runs", {"run": {"experiment": "hidden"}}).raise_for_status().json()
        admin.upload(MAIN, DATA)
        admin.commit(MAIN, "weights", DATA, run=run["uid"]).raise_for_status()
        yield Place(platform, people, http, run["uid"])
    platform.down()


def test_ids_of_another_team_lead_nowhere(place: Place) -> None:
    stranger, run = place.as_("stranger"), place.run
    stranger.upload(OTHER, b"mine")
    stranger.commit(OTHER, "mine", b"mine").raise_for_status()
    versions = f"/teams/{OTHER}/artifacts/mine/versions"
    whole = f"teams/{MAIN}/runs/{run}"
    answers = {
        path: stranger.get(f"/teams/{OTHER}{path}")
        for path in (
            f"/runs/{run}",
            f"/runs/{run}/logs",
            f"/runs/{run}/checkpoints",
            f"/runs/{run}/checkpoints/latest",
            f"/series?run={whole}",
            "/artifacts/weights/versions",
            "/artifacts/weights/versions/latest",
            "/artifacts/weights/versions/1/lineage",
            f"/artifacts/-/versions?run={whole}",
            f"/artifacts/mine/versions/1?used_by={whole}",
            f"/artifacts/mine/versions/1?used_by={run}",
            f"/code/{DIGEST}",
        )
    }
    answers |= {
        "compare": stranger.post(f"/teams/{OTHER}/runs:compare", {"runs": [whole]}),
        "rename": stranger.ask("PATCH", f"/teams/{OTHER}/runs/{run}", {"display_name": "x"}),
        "downloads": stranger.post(f"/teams/{OTHER}/downloads", {"digests": [DIGEST]}),
        "source": stranger.commit(
            OTHER, "mine", b"mine", sources=[f"teams/{MAIN}/artifacts/weights/versions/1"]
        ),
        "run": stranger.commit(OTHER, "mine", b"mine", run=whole),
        "its id": stranger.commit(OTHER, "mine", b"mine", run=run),
    }
    assert {name: answer.status_code for name, answer in answers.items() if answer.status_code != 404} == {}
    assert len(stranger.get(versions).json()["versions"]) == 1
    # Whether another team has these bytes is not to be found out.
    assert stranger.upload(OTHER, DATA) == 1
    # A run of the same id is another run.
    stranger.post(f"/teams/{OTHER}/runs", {"run_id": run}).raise_for_status()
    assert place.as_("admin").get(f"/teams/{MAIN}/runs/{run}").json()["experiment"].endswith("/hidden")


def test_a_leaked_run_token_touches_no_other_run_and_no_committed_byte(place: Place) -> None:
    leaked, run = place.as_("run"), place.run
    assert leaked.get(f"/teams/{MAIN}/runs/{run}").status_code == 404
    assert leaked.get(f"/teams/{MAIN}/series?run={run}").status_code == 404
    assert leaked.get(f"/teams/{MAIN}/runs/{run}/checkpoints/latest").status_code == 404
    assert leaked.commit(MAIN, "weights", DATA, run=run).status_code == 403
    used = leaked.get(f"/teams/{MAIN}/artifacts/weights/versions/1?used_by={run}")
    assert used.json()["reason"] == "RUN_TOKEN_FOREIGN"
    part = {"digest": DIGEST, "size": len(DATA) - 1}
    assert leaked.post(f"/teams/{MAIN}/uploads", {"parts": [part]}).status_code == 400
    answer = place.as_("admin").post(f"/teams/{MAIN}/downloads", {"digests": [DIGEST]}).json()
    assert place.http.get(answer["downloads"][0]["url"]).content == DATA


def test_a_signed_url_is_good_for_one_key_and_one_method(place: Place) -> None:
    data = b"by url " + new_uid().encode()
    digest = hashlib.sha256(data).hexdigest()
    body = {"parts": [{"digest": digest, "size": len(data)}]}
    url = place.as_("member").post(f"/teams/{MAIN}/uploads", body).json()["uploads"][0]["url"]
    others = [
        url.replace(f"/t/{MAIN}/", f"/t/{OTHER}/"),
        url.replace(f"/t/{MAIN}/", f"/t/{MAIN}/%2e%2e/{OTHER}/"),
        url.replace(digest, "f" * 64),
        url.replace("X-Amz-Expires=900", "X-Amz-Expires=90000"),
        url + "&uploads",
        url.partition("?")[0],
    ]
    assert {place.http.put(other, content=data).status_code for other in others} <= {400, 403}
    assert {place.http.request(method, url).status_code for method in ("GET", "DELETE")} == {403}
    assert place.http.put(url, content=data).status_code == 200


def made_up(scope: str, position: Mapping[str, str | int]) -> str:
    return encode_token(position, scope=scope)


@pytest.mark.parametrize(
    "path",
    [
        "/runs?experiment=%00",
        "/runs?page_token=" + made_up(f"runs/{MAIN}//[]/", {"time": "x", "uid": "y"}),
        "/runs?page_token=" + made_up(f"runs/{MAIN}//[]/", {"a": 1}),
        "/artifacts/weights/versions?page_token=" + made_up(f"versions/{MAIN}/weights//0", {"seq": "x"}),
        "/experiments?page_token=" + made_up(f"experiments/{MAIN}", {"id": "\0"}),
        "/reservations?page_token=" + made_up(f"reservations/{MAIN}/False", {"after": "\0"}),
        "/runs?page_size=-1",
    ],
)
def test_odd_requests_are_the_callers_mistake(place: Place, path: str) -> None:
    assert place.as_("admin").get(f"/teams/{MAIN}{path}").status_code in (400, 404)


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "0.0.0.0", "127.1"])
def test_a_page_that_leads_its_own_name_here_gets_nothing(place: Place, host: str) -> None:
    assert place.as_("admin").ask("GET", "/me", host=host).status_code == 421


def test_no_other_page_can_make_a_browser_ask(place: Place) -> None:
    """There is no cookie to ride on, no type of body that needs no leave, and no leave is given."""
    admin = place.as_("admin")
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        sent = {
            "Authorization": f"Bearer {admin.token}",
            "Content-Type": kind,
            "Origin": "http://evil.example",
        }
        answer = place.http.post(f"/api/v1/teams/{MAIN}/runs", content=b"{}", headers=sent)
        assert answer.status_code == 415
    asked = {"Origin": "http://evil.example", "Access-Control-Request-Method": "GET"}
    leave = place.http.options("/api/v1/me", headers=asked)
    assert not [name for name in leave.headers if name.startswith("access-control")]
    ridden = place.http.get("/api/v1/me", headers={"Cookie": f"token={admin.token}"})
    assert ridden.status_code == 401


def jwt(**header: str) -> str:
    """A token of another kind, with nobody's signature."""
    parts = [{"typ": "JWT", **header}, {"sub": "users/admin", "scope": "admin", "exp": 4_000_000_000}]
    words = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts]
    return ".".join([*words, ""])


@pytest.mark.parametrize("header", [{"alg": "none"}, {"alg": "HS256", "kid": "../../dev/null"}])
def test_no_token_is_believed_for_what_it_says(place: Place, header: dict[str, str]) -> None:
    forged = Caller(place.http, jwt(**header))
    assert forged.get("/me").status_code == 401
    assert place.http.get("/api/v1/me", params={"token": place.people.admin}).status_code in (400, 401)


@pytest.mark.parametrize(
    "name",
    ["../x", "/etc/x", "a/../../b", "C:\\x", "\\\\srv\\x", ".", "..", "a\0b", "a\r\nb", "x" * 10_000, ""],
)
def test_no_name_leads_out_of_an_artifact(place: Place, name: str) -> None:
    member = place.as_("member")
    member.upload(MAIN, DATA)
    part = {"digest": DIGEST, "size": len(DATA)}
    body = {"entries": [{"path": name, **part, "parts": [part]}]}
    answer = member.post(f"/teams/{MAIN}/artifacts/odd/versions", body)
    assert answer.status_code == 400, answer.text
    assert member.get(f"/teams/{MAIN}/artifacts/odd/versions").json().get("versions", []) == []


@pytest.mark.parametrize("source", ["file:///etc/passwd", "http://169.254.169.254/latest", "/etc/passwd"])
def test_no_source_is_fetched_that_a_client_names(place: Place, source: str) -> None:
    """As a version's origin, and as where a model of MLflow's lies."""
    answer = place.as_("member").commit(MAIN, "taken", DATA, sources=[source])
    assert answer.status_code in (400, 404), answer.text
    sent = {"Authorization": f"Bearer {place.people.member}"}
    door = "/mlflow/api/2.0/mlflow"
    made = place.http.post(f"{door}/registered-models/create", json={"name": f"m{new_uid()}"}, headers=sent)
    name = made.raise_for_status().json()["registered_model"]["name"]
    body = {"name": name, "source": source}
    refused = place.http.post(f"{door}/model-versions/create", json=body, headers=sent)
    assert refused.status_code == 400, refused.text


def test_what_names_hold_stays_text(place: Place) -> None:
    """In headers, in the services' logs, and in what the API gives back."""
    evil = "<script>alert(1)</script>\u202e"
    member = place.as_("member")
    made = member.post(f"/teams/{MAIN}/runs", {"run": {"experiment": "e", "display_name": evil}})
    assert made.headers["content-type"] == "application/json"
    assert made.headers["x-content-type-options"] == "nosniff"
    for split in ("a\r\nX-Evil: 1", 'a\n{"event": "forged"}'):
        member.post(f"/teams/{MAIN}/runs", {"run": {"experiment": "e", "display_name": split}})
        answer = member.ask("GET", "/me", **{"X-Request-Id": "x" * 500})
        assert "x-evil" not in answer.headers
    for log in (place.platform.data / "logs").glob("*.log"):
        if log.stem in ("scheduler", "quota", "tracker", "gateway"):
            events = [json.loads(line) for line in log.read_text().splitlines() if line.strip()]
            assert not [event for event in events if event.get("event") == "forged"]


def test_what_is_deep_long_or_no_json_is_refused(place: Place) -> None:
    sent = {"Authorization": f"Bearer {place.people.member}", "Content-Type": "application/json"}
    bodies: dict[bytes, set[int]] = {
        b"[" * 10_000 + b"]" * 10_000: {400},
        b'{"run": ' * 5_000 + b"1" + b"}" * 5_000: {400},
        b'{"run": {}, "run": {}}': {400},
        b'{"run": {"display_name": "\xff"}}': {400},
        b'{"__proto__": {"admin": true}}': {400},
        b" " * (9 << 20): {413},
        b"": {200, 400},
    }
    for body, expected in bodies.items():
        answer = place.http.post(f"/api/v1/teams/{MAIN}/runs", content=body, headers=sent)
        assert answer.status_code in expected, body[:40]
    for coding, packed in (
        ("gzip", gzip.compress(b" " * (50 << 20))),
        ("zstd", zstd.compress(b" " * (50 << 20))),
    ):
        bomb = {**sent, "Content-Encoding": coding}
        answer = place.http.post(f"/api/v1/teams/{MAIN}/runs", content=packed, headers=bomb)
        assert (answer.status_code, len(packed) < 100_000) == (413, True), coding


def test_a_head_that_never_ends_is_cut(place: Place) -> None:
    """One that stops in the middle and one that is too long: nobody else waits for them."""
    address = (place.http.base_url.host, place.http.base_url.port)
    with ExitStack() as stack:
        half, long = (stack.enter_context(socket.create_connection(address, timeout=30)) for _ in range(2))
        half.sendall(b"GET /api/v1/me HTTP/1.1\r\nHost: 127.0.0.1\r\nX-")
        with suppress(ConnectionError):
            long.sendall(b"GET /api/v1/me HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Long: " + b"x" * (1 << 20))
        assert place.as_("member").get("/me").status_code == 200
        for line in (long, half):
            told = b""
            with suppress(ConnectionError):
                while more := line.recv(4096):
                    told += more
            assert not told or int(told.split()[1]) in (400, 408, 431), told


def test_no_question_takes_more_than_its_share(place: Place) -> None:
    member, run = place.as_("member"), place.run
    odd = {
        "buckets": f"/teams/{MAIN}/series?run={run}&key=k&max_buckets=2000000000",
        "regex": f"/teams/{MAIN}/runs/{run}/logs?grep=" + "(a%2B)%2B" * 20 + "b",
        "deep": f"/teams/{MAIN}/runs?filter=" + "(" * 3000 + "metrics.a<1" + ")" * 3000,
        "stacked": f"/teams/{MAIN}/runs?filter=" + quote("name = 'x'; DROP TABLE runs; --'"),
        "quote": f"/teams/{MAIN}/runs?filter=" + quote("config.`a'b\"c{x:String}` = 'y'"),
        "order": f"/teams/{MAIN}/runs?order_by=" + quote("(SELECT 1)"),
    }
    for name, path in odd.items():
        assert member.get(path).status_code in (200, 400), name
    assert member.get(f"/teams/{MAIN}/runs").status_code == 200


def test_the_servers_behind_ask_for_a_password(place: Place) -> None:
    """Of anybody on this machine who finds their ports."""
    data = place.platform.data
    with pytest.raises(asyncpg.InvalidPasswordError):
        asyncio.run(
            asyncpg.connect(
                host="127.0.0.1", port=port_of(data, "postgres"), user="cairn", password="guess",
                database="cairn",
            )
        )  # fmt: skip
    with socket.create_connection(("127.0.0.1", port_of(data, "nats")), timeout=10) as bus:
        bus.sendall(b'CONNECT {"verbose":true,"lang":"x","version":"1"}\r\nSUB > 1\r\nPING\r\n')
        told = b""
        while b"-ERR" not in told and (more := bus.recv(4096)):
            told += more
    assert b"Authorization" in told or b"Authentication" in told, told
    for path in ("", f"cairn/t/{MAIN}/blobs/{DIGEST}"):
        store = httpx.get(f"http://127.0.0.1:{port_of(data, 's3')}/{path}", trust_env=False)
        assert store.status_code in (400, 403)
        assert DATA not in store.content


def test_a_second_platform_on_the_same_folder_is_told_of_the_first(place: Place) -> None:
    before = {process["name"]: process["pid"] for process in place.platform.status()["processes"]}
    again = place.platform.cairn("up", "--detach")
    assert "already" in (again.stdout + again.stderr).lower(), again.stdout + again.stderr
    assert {one["name"]: one["pid"] for one in place.platform.status()["processes"]} == before


def test_a_job_is_given_its_own_and_nothing_of_the_platform(place: Place, tmp_path: Path) -> None:
    tells = "import json, os; print(json.dumps({**os.environ, 'umask': os.umask(0)}))"
    (tmp_path / "tell.py").write_text(tells)
    done = place.platform.cairn("run", "--follow", "--", "python", "tell.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("{")]
    given: dict[str, Any] = json.loads(line)
    assert given.pop("umask") == 0o077
    assert {name for name in given if name.startswith("CAIRN_")} == GIVEN
    values = " ".join(given.values())
    assert [name for name, secret in secrets_of(place).items() if secret in values] == []


def secrets_of(place: Place) -> dict[str, str]:
    """All secrets there are, by name."""
    found: dict[str, str] = {}

    def add(name: str, value: object) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                add(f"{name}.{key}", inner)
        elif not name.endswith(("access", "uid")):
            found[name] = str(value)

    add("platform", secrets_in(place.platform.data))
    add("people", vars(place.people))
    return found


def test_no_secret_lies_about_and_no_file_is_open(place: Place) -> None:
    """After all of the above, and though it was started with umask 000."""
    data, secrets = place.platform.data, {name: text.encode() for name, text in secrets_of(place).items()}
    assert len(secrets) > 20
    open_, told = [], []
    for path in data.rglob("*"):
        mode = path.lstat().st_mode
        if not stat.S_ISLNK(mode) and mode & 0o077:
            open_.append(str(path))
        if stat.S_ISREG(mode) and path.name != "secrets.json":
            content = path.read_bytes()
            told += [(str(path), name) for name, secret in secrets.items() if secret in content]
    assert (open_, told) == ([], [])
    assert stat.S_IMODE(Path(place.platform.env["CAIRN_CONFIG"]).stat().st_mode) == 0o600
    lines = [Path(f"/proc/{process['pid']}/cmdline") for process in place.platform.status()["processes"]]
    seen = b" ".join(line.read_bytes() for line in lines) + json.dumps(place.platform.status()).encode()
    assert [name for name, secret in secrets.items() if secret in seen] == []


def test_a_share_link_shows_its_runs_alone_and_nothing_once_it_is_revoked(
    place: Place, tmp_path: Path
) -> None:
    admin, viewer = place.as_("admin"), place.as_("viewer")
    body = {"run": {"experiment": "shown", "display_name": "for everybody", "params": {"lr": 0.25}}}
    shown = admin.post(f"/teams/{MAIN}/runs", body).raise_for_status().json()
    order = {"runs": [shown["uid"]], "ttl": "3600s"}
    assert viewer.post(f"/teams/{MAIN}/shares", order).status_code == 403
    foreign = place.as_("stranger").post(f"/teams/{OTHER}/shares", order)
    assert (foreign.status_code, foreign.json()["reason"]) == (404, "RUN_NOT_FOUND")
    made = admin.post(f"/teams/{MAIN}/shares", order).raise_for_status().json()
    anybody = Caller(place.http, made["secret"])
    shared = anybody.get("/shared").raise_for_status().json()
    assert [run["uid"] for run in shared["runs"]] == [shown["uid"]]
    assert shared["comparison"]["rows"][0]["params"] == {"lr": 0.25}
    assert anybody.get("/shared/series").raise_for_status().json()["series"] == []
    assert place.run not in json.dumps(shared)
    # There is no way to ask for another run, and the secret is no token.
    for path in (f"/shared?runs={place.run}", f"/shared/series?run={place.run}", "/shared?secret=x"):
        assert anybody.get(path).status_code == 400
    for path in ("/me", f"/teams/{MAIN}/runs/{shown['uid']}", f"/teams/{MAIN}/shares"):
        assert anybody.get(path).json()["reason"] == "TOKEN_INVALID"
    listed = viewer.get(f"/teams/{MAIN}/shares").json()["shares"]
    assert [one["state"] for one in listed] == ["ACTIVE"]
    assert made["secret"] not in json.dumps(listed)
    page = browse(f"{place.http.base_url}/#share={made['secret']}", tmp_path / "profile")
    assert "for everybody" in page
    assert "shared read-only" in page
    member = place.as_("member")
    assert member.post(f"/teams/{MAIN}/shares/{made['share']['uid']}:revoke", {}).status_code == 403
    admin.post(f"/teams/{MAIN}/shares/{made['share']['uid']}:revoke", {}).raise_for_status()
    for path in ("/shared", "/shared/series"):
        replayed = anybody.get(path)
        assert (replayed.status_code, replayed.json()["reason"]) == (401, "SHARE_INVALID")
    never = Caller(place.http, "cairn_share_" + "x" * 43).get("/shared")
    assert never.json()["detail"] == anybody.get("/shared").json()["detail"]
    brief = admin.post(f"/teams/{MAIN}/shares", {**order, "ttl": "0.001s"}).raise_for_status().json()
    assert Caller(place.http, brief["secret"]).get("/shared").status_code == 401


def test_a_link_is_made_and_ended_on_the_command_line(place: Place) -> None:
    cairn = place.platform.cairn
    made = cairn("share", place.run[:20], "--expires", "1d")
    assert made.returncode == 0, made.stderr
    assert f"{str(place.http.base_url).rstrip('/')}/#share=cairn_share_" in made.stdout
    listed = json.loads(cairn("share", "ls", "--json").stdout)
    newest = listed[0]
    assert newest["runs"] == [f"teams/{MAIN}/runs/{place.run}"]
    assert cairn("share", "revoke", newest["uid"]).returncode == 0
    secret = made.stdout.strip().partition("#share=")[2]
    assert Caller(place.http, secret).get("/shared").status_code == 401

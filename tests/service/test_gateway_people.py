"""How people come in by the page and by programs: over a real quota service, by HTTP alone."""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import pytest_asyncio

from tests.harness.entry import PASSWORD, Place, entry
from tests.harness.gateway import bearer


@pytest_asyncio.fixture
async def place(database_url: Callable[[str], str], nats_url: str, tmp_path: Path) -> AsyncIterator[Place]:
    async with entry(postgres_url=database_url("quota"), nats_url=nats_url, folder=tmp_path) as made:
        yield made


COOKIE = {"X-Cairn-Cookie": "1"}


async def test_the_page_comes_in_by_a_cookie_that_no_script_and_no_other_site_can_use(place: Place) -> None:
    http = place.http
    body = {"secret": await place.link("ada@lab.example"), "password": PASSWORD}
    accepted = await http.post("/api/v1/invitations:accept", json=body, headers=COOKIE)
    assert accepted.status_code == 200, accepted.text
    assert accepted.json()["secret"] == ""
    written = accepted.headers["set-cookie"]
    assert all(word in written for word in ("HttpOnly", "SameSite=Strict", "Path=/", "Max-Age="))
    assert http.cookies["cairn_session"] not in accepted.text
    me = await http.get("/api/v1/me")
    assert me.json()["subject"] == "users/ada"
    proof = {"X-CSRF-Token": me.headers["x-csrf-token"]}
    order = {"display_name": "ci", "scope": "SCOPE_READ"}
    forged = [
        await http.post("/api/v1/tokens", json=order),
        await http.post("/api/v1/tokens", json=order, headers={"X-CSRF-Token": "0" * 64}),
        await http.post("/api/v1/tokens", json=order, headers={**proof, "Origin": "https://evil.example"}),
        await http.post("/api/v1/tokens", json=order, headers={**proof, "Sec-Fetch-Site": "cross-site"}),
        await http.get("/api/v1/tokens", headers={"Sec-Fetch-Site": "same-site"}),
    ]
    assert [(one.status_code, one.json()["reason"]) for one in forged] == [(403, "REQUEST_FORGED")] * 5
    plain = await http.post("/api/v1/tokens", content=b"{}", headers={**proof, "Content-Type": "text/plain"})
    assert plain.status_code == 415
    made = await http.post("/api/v1/tokens", json=order, headers=proof)
    assert made.status_code == 200, made.text
    # With a token of one's own there is nothing to forge.
    token = bearer(made.json()["secret"])
    async with httpx.AsyncClient(base_url=http.base_url) as other:
        assert (await other.get("/api/v1/me", headers=token)).json()["scope"] == "SCOPE_READ"
    secret = http.cookies["cairn_session"]
    ended = await http.post("/api/v1/session:end", headers=proof)
    assert ended.status_code == 200
    assert "Max-Age=0" in ended.headers["set-cookie"]
    refused = await http.get("/api/v1/me", headers=bearer(secret))
    assert refused.json()["reason"] == "TOKEN_REVOKED"


async def test_behind_tls_the_cookie_is_for_this_host_and_tls_alone(place: Place) -> None:
    http = await place.gateway(public_url="https://cairn.lab.example")
    await place.member("tess@lab.example")
    body = {"email": "tess@lab.example", "password": PASSWORD}
    session = await http.post("/api/v1/sessions", json=body, headers=COOKIE)
    written = session.headers["set-cookie"]
    assert written.startswith("__Host-cairn=")
    assert "; Secure" in written
    assert "Domain" not in written


async def test_a_program_signs_in_and_out_without_a_cookie(place: Place) -> None:
    await place.member("pia@lab.example")
    body = {"email": "pia@lab.example", "password": PASSWORD, "ttl": "3600s"}
    session = await place.http.post("/api/v1/sessions", json=body)
    assert "set-cookie" not in session.headers
    token = bearer(session.json()["secret"])
    assert (await place.http.get("/api/v1/users/me", headers=token)).json()["email"] == "pia@lab.example"
    assert (await place.http.post("/api/v1/session:end", headers=token)).status_code == 200
    assert (await place.http.get("/api/v1/me", headers=token)).status_code == 401


async def test_the_clients_address_is_the_one_that_a_trusted_proxy_tells(place: Place) -> None:
    await place.member("noor@lab.example")
    behind = await place.gateway(trusted_proxies="127.0.0.1, 10.0.0.0/8")
    told = {"X-Forwarded-For": "203.0.113.9, 198.51.100.4, 10.1.1.1", "X-Client-Address": "192.0.2.1"}
    body = {"email": "noor@lab.example", "password": PASSWORD}
    for http in (place.http, behind):
        assert (await http.post("/api/v1/sessions", json=body, headers=told)).status_code == 200
    rows = await place.quota.db.fetch(
        "SELECT address FROM audit_entries WHERE action = 'session.created' AND actor = 'users/noor'"
        " AND detail ->> 'how' = 'password' ORDER BY seq"
    )
    assert [row["address"] for row in rows] == ["127.0.0.1", "198.51.100.4"]


async def test_a_guesser_is_told_how_long_to_wait(place: Place) -> None:
    body = {"email": "nobody@lab.example", "password": "a word that is wrong"}
    answers = [await place.http.post("/api/v1/sessions", json=body) for _ in range(6)]
    assert [one.status_code for one in answers] == [401] * 5 + [429]
    assert 60 < int(answers[-1].headers["retry-after"]) <= 900
    assert len({one.json()["detail"] for one in answers[:5]}) == 1


async def test_who_comes_in_finds_the_team_and_manages_it_by_its_role(place: Place) -> None:
    ada = bearer((await place.member("ada.b@lab.example"))["secret"])
    admin = bearer(place.quota.tokens.admin)
    members = "/api/v1/teams/main/members"
    found = (await place.http.get(members, headers=ada)).json()["memberships"]
    assert {"users/admin", "users/ada-b"} <= {one["user"] for one in found}
    raised = await place.http.post(f"{members}/ada-b:role", json={"role": "ROLE_ADMIN"}, headers=ada)
    assert (raised.status_code, raised.json()["reason"]) == (403, "ROLE_TOO_LOW")
    assert (
        await place.http.post(f"{members}/ada-b:role", json={"role": "ROLE_VIEWER"}, headers=admin)
    ).json()["role"] == "ROLE_VIEWER"
    account = await place.http.post(
        "/api/v1/teams/main/accounts", json={"account_id": "ci", "role": "ROLE_MEMBER"}, headers=admin
    )
    assert account.json()["name"] == "users/ci.main"
    token = await place.http.post(
        f"{members}/ci.main:token", json={"scope": "SCOPE_WRITE", "ttl": "86400s"}, headers=admin
    )
    program = bearer(token.json()["secret"])
    assert (await place.http.get("/api/v1/me", headers=program)).json()["subject"] == "users/ci.main"
    assert (await place.http.post(f"{members}/ci.main:disable", headers=admin)).status_code == 200
    assert (await place.http.get("/api/v1/me", headers=program)).status_code == 401
    assert (await place.http.post(f"{members}/ada-b:remove", headers=ada)).status_code == 200
    assert (await place.http.get("/api/v1/teams/main", headers=ada)).status_code == 401


def pkce() -> tuple[str, str]:
    """A verifier, and its challenge."""
    verifier = secrets.token_urlsafe(48)
    digest = hashlib.sha256(verifier.encode()).digest()
    return verifier, base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


async def test_a_loopback_login_leads_to_this_machine_alone_and_is_good_once(place: Place) -> None:
    http, redirect = place.http, "http://127.0.0.1:7001/callback"
    verifier, challenge = pkce()
    asked = {"redirect_uri": redirect, "state": "s" * 22, "code_challenge": challenge, "client": "cairn"}
    token = bearer((await place.member("ada.loop@lab.example"))["secret"])

    async def begin(**other: str) -> httpx.Response:
        return await http.post("/api/v1/loopback-logins", json={**asked, **other}, headers=token)

    async def code() -> str:
        made = (await begin()).json()["url"]
        assert made.startswith(f"{redirect}?code=cairn_code_")
        assert made.endswith("&state=" + "s" * 22)
        return str(made).partition("code=")[2].partition("&")[0]

    async def finish(given: str, **other: str) -> tuple[int, str]:
        body = {"code": given, "code_verifier": verifier, "redirect_uri": redirect, **other}
        answer = await http.post("/api/v1/loopback-logins:finish", json=body)
        return answer.status_code, answer.json().get("reason") or answer.json()["user"]["name"]

    for wrong in (
        "http://localhost:7001/callback", "http://127.0.0.1.evil.example:7001/callback",
        "http://127.0.0.1:7001@evil.example/callback", "https://127.0.0.1:7001/callback",
        "http://127.0.0.1:80/callback", "http://127.0.0.1:70000/callback", "http://127.0.0.1/callback",
        "http://127.0.0.1:7001/callback?x=1", "http://127.0.0.1:7001/callback\n", "http://127.1:7001/callback",
        "http://0.0.0.0:7001/callback", "javascript:alert(1)", "",
    ):  # fmt: skip
        assert (await begin(redirect_uri=wrong)).status_code == 400, wrong
    for name, value in (("state", "short"), ("code_challenge", verifier), ("code_challenge", "")):
        assert (await begin(**{name: value})).status_code == 400, name
    refused = (401, "LOGIN_REFUSED")
    # A wrong verifier, or another port, uses it up: whoever has only the code has nothing.
    for other in ({"code_verifier": pkce()[0]}, {"redirect_uri": "http://127.0.0.1:7002/callback"}):
        stolen = await code()
        assert [await finish(stolen, **other), await finish(stolen)] == [refused] * 2
    late = await code()
    await place.quota.db.execute("UPDATE loopback_logins SET expire_time = now() - interval '1 second'")
    assert await finish(late) == refused
    good = await code()
    assert [await finish(good), await finish(good)] == [(200, "users/ada-loop"), refused]
    assert good not in str(await place.quota.db.fetch("SELECT l::text FROM loopback_logins l"))
    # By the page's cookie it takes the proof that no other site has.
    body = {"email": "ada.loop@lab.example", "password": PASSWORD}
    assert (await http.post("/api/v1/sessions", json=body, headers=COOKIE)).status_code == 200
    forged = await http.post("/api/v1/loopback-logins", json=asked)
    assert (forged.status_code, forged.json()["reason"]) == (403, "REQUEST_FORGED")

"""Single sign-on, there and back, with a real provider: by HTTP as a browser does it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from cairn_common.ids import new_uid
from cairn_server.ports import free
from tests.harness.chromium import Browser, Page, chromium
from tests.harness.entry import PASSWORD, Place, entry
from tests.harness.gateway import bearer
from tests.harness.sign_on import SECRET, Provider, asked, browser, installed, key

# By id; each test has addresses of a domain of its own.
ACCOUNTS: dict[str, dict[str, Any]] = {
    "id-ada": {"email": "Ada", "email_verified": True, "name": "Ada L.", "groups": ["ml/vision=a"]},
    "id-eve": {"email": "ada", "email_verified": False, "name": "Ada L."},
    "id-new-ada": {"email": "ada", "email_verified": True, "name": "Another Ada"},
    "id-bob": {"email": "bob", "email_verified": True, "name": "Bob"},
    "id-out": {"email": "out@elsewhere.example", "email_verified": True, "name": "Out"},
    "id-none": {"name": "No Address", "groups": ["ml/vision=a", "bosses"]},
}
PEOPLE = "/api/v1/users/me"


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return installed(tmp_path_factory.mktemp("npm") / "provider")


def accounts(domain: str) -> dict[str, dict[str, Any]]:
    """Whom the provider knows, with addresses of this domain."""
    whole = {name: dict(claims) for name, claims in ACCOUNTS.items()}
    for claims in whole.values():
        if "@" not in claims.get("email", "@"):
            claims["email"] += f"@{domain}"
    return whole


@dataclass(frozen=True)
class Lab:
    """Cairn, and a provider that it trusts."""

    place: Place
    provider: Provider
    domain: str

    def of(self, name: str) -> str:
        """An address."""
        return f"{name}@{self.domain}"

    @property
    def url(self) -> str:
        return str(self.place.http.base_url)

    async def begin(self, who: httpx.AsyncClient, path: str = "") -> str:
        """The page's button; gives the provider's address."""
        begun = await who.post(f"{self.url}/api/v1/oidc/logins", json={"return_path": path})
        assert begun.status_code == 200, begun.text
        assert begun.json()["binding"] == ""
        return str(begun.json()["url"])

    async def back(self, who: httpx.AsyncClient, account: str, path: str = "") -> str:
        """All of it; gives where the browser ends."""
        callback = await self.provider.agree(who, await self.begin(who, path), account)
        return await land(who, callback)


async def land(who: httpx.AsyncClient, callback: str) -> str:
    """Comes back from the provider."""
    answer = await who.get(callback)
    assert answer.status_code == 303, answer.text
    return str(answer.headers["location"])


Start = Callable[..., AbstractAsyncContextManager[Lab]]


@pytest.fixture
def start(database_url: Callable[[str], str], nats_url: str, tmp_path: Path, package: Path) -> Start:
    @asynccontextmanager
    async def make(*keys: dict[str, Any], **settings: Any) -> AsyncIterator[Lab]:
        port = free(["http"])["http"]
        url = f"http://127.0.0.1:{port}"
        domain = f"{new_uid()}.example"
        provider = Provider(package, accounts(domain), f"{url}/api/v1/oidc/callback")
        if settings.get("oidc_domains"):
            settings["oidc_domains"] = domain
        given = {"oidc_client_id": "cairn", "oidc_client_secret": SECRET, **settings}
        async with (
            provider.running(*(keys or (key("first"),))),
            entry(
                postgres_url=database_url("quota"),
                nats_url=nats_url,
                folder=tmp_path,
                http_port=port,
                public_url=url,
                oidc_issuer=provider.issuer,
                **given,
            ) as place,
        ):
            yield Lab(place, provider, domain)

    return make


@pytest_asyncio.fixture
async def lab(start: Start) -> AsyncIterator[Lab]:
    async with start(oidc_button="Our university") as made:
        yield made


async def entries(lab: Lab, action: str, about: str) -> int:
    """How many the audit has in which this stands."""
    found: int = await lab.place.quota.db.fetchval(
        "SELECT count(*) FROM audit_entries e WHERE action = $1 AND strpos(e::text, $2) > 0", action, about
    )
    return found


async def test_who_was_invited_comes_in_by_the_provider_and_is_the_same_ever_after(lab: Lab) -> None:
    assert (await lab.place.http.get("/api/v1/sign-in")).json() == {"single_sign_on": "Our university"}
    await lab.place.link(lab.of("ada"), role="ROLE_VIEWER")
    async with browser() as ada:
        assert await lab.back(ada, "id-ada", "/device/BBBB-BBBB") == "/#/device/BBBB-BBBB"
        me = (await ada.get(f"{lab.url}{PEOPLE}")).json()
        assert (me["email"], me["display_name"]) == (lab.of("ada"), "Ada L.")
        assert me["has_password"] is False
        who = await ada.get(f"{lab.url}/api/v1/me")
        assert who.json()["memberships"] == [{"team": "main", "role": "ROLE_VIEWER"}]
        # As by a password: the cookie changes nothing without its proof, and a sign-out is the end of it.
        proof = {"X-CSRF-Token": who.headers["x-csrf-token"]}
        assert (await ada.post(f"{lab.url}/api/v1/tokens", json={})).json()["reason"] == "REQUEST_FORGED"
        token = bearer(ada.cookies["cairn_session"])
        assert (await ada.post(f"{lab.url}/api/v1/session:end", headers=proof)).status_code == 200
    async with browser() as elsewhere:
        assert (await elsewhere.get(f"{lab.url}/api/v1/me", headers=token)).json()[
            "reason"
        ] == "TOKEN_REVOKED"
        # No invitation is needed twice, and who comes is found by the provider's id, not by an address.
        assert await lab.back(elsewhere, "id-ada") == "/#/runs"
        assert (await elsewhere.get(f"{lab.url}{PEOPLE}")).json()["name"] == me["name"]
    states = (
        await lab.place.http.get(
            "/api/v1/teams/main/invitations", headers=bearer(lab.place.quota.tokens.admin)
        )
    ).json()["invitations"]
    assert [one["state"] for one in states if one["email"] == me["email"]] == ["ACCEPTED"]
    assert await entries(lab, "identity.linked", me["name"]) == 1
    assert await entries(lab, "session.created", me["name"]) == 2


async def provided(real: Browser, lab: Lab, account: str) -> Page:
    """A window that goes to the provider by the page's button, and is sent back."""
    page = await real.page(lab.url)
    await page.click("Our university")
    await page.until(f"location.origin === {lab.provider.issuer!r}")
    await page.fill(login=account, password="any")
    await page.click("Sign-in")
    await page.click("Continue")
    return page


async def test_a_person_comes_in_by_button_and_password_and_lets_a_command_line_in(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await lab.place.link(lab.of("ada"))
    await lab.place.member(lab.of("bob"))
    inside = f"location.origin === {lab.url!r} && !document.getElementById('leave').hidden"
    async with chromium(tmp_path / "profile") as real:
        page = await provided(real, lab, "id-ada")
        await page.until(inside)
        me = await page.get("fetch('/api/v1/users/me').then(answer => answer.json())")
        assert me["email"] == lab.of("ada")
        # The command line opens it; somebody signs in there by password, and says yes.
        (opener := tmp_path / "opener").write_text(f'#!/bin/sh\necho "$1" > {tmp_path}/opened\n')
        opener.chmod(0o700)
        monkeypatch.setenv("BROWSER", f"{opener} %s")
        config, opened = tmp_path / "bob.json", tmp_path / "opened"
        waiting = asyncio.create_task(lab.place.cairn("login", lab.url, "--browser", config=config))
        async with asyncio.timeout(30):
            while not (opened.exists() and opened.read_text().endswith("\n")):
                await asyncio.sleep(0.02)
        page = await real.page(opened.read_text().strip())
        await page.fill(email=lab.of("bob"), password=PASSWORD)
        await page.click("Sign in")
        assert lab.of("bob") in await page.until(
            "document.querySelector('.card p')?.innerText.includes('asks to act') && document.body.innerText"
        )
        await page.click("Yes, let it in")
        await page.until("document.body.innerText.includes('You are in.')")
        assert "bob at" in await waiting
        # By the button, too, once the password has shown that it is the same person.
        page = await provided(real, lab, "id-bob")
        await page.until("document.querySelector('h1')?.innerText === 'Is it you?'")
        await page.fill(password=PASSWORD)
        await page.click("It is me")
        await page.until(inside)
    token = json.loads(config.read_text())["token"]
    assert (await lab.place.http.get(PEOPLE, headers=bearer(token))).json()["email"] == lab.of("bob")


async def test_an_address_is_worth_what_the_provider_has_verified(lab: Lab) -> None:
    await lab.place.link(lab.of("ada"))
    async with browser() as eve, browser() as bob, browser() as ada, browser() as second:
        for who, account in ((eve, "id-eve"), (bob, "id-bob"), (bob, "id-none")):
            assert await lab.back(who, account) == "/#sign-in=INVITATION_NEEDED"
            assert "cairn_session" not in who.cookies
            who.cookies.clear()
        assert await lab.back(ada, "id-ada") == "/#/runs"
        # The provider has given the address to somebody else since: not the same person.
        assert await lab.back(second, "id-new-ada") == "/#sign-in=LOGIN_REFUSED"
    count = "SELECT count(*) FROM users WHERE email LIKE $1"
    assert await lab.place.quota.db.fetchval(count, lab.of("%")) == 1


async def test_who_has_a_password_gives_it_once(lab: Lab) -> None:
    session = await lab.place.member(lab.of("bob"))
    confirm = f"{lab.url}/api/v1/oidc/logins:confirm"
    async with browser() as bob, browser() as other:
        assert await lab.back(bob, "id-bob") == "/#sign-in=PASSWORD_NEEDED"
        assert (await bob.get(f"{lab.url}/api/v1/me")).status_code == 401
        wrong = await bob.post(confirm, json={"password": "not his at all"})
        assert wrong.json()["reason"] == "PASSWORD_WRONG"
        # What was proven in one browser is nothing in another.
        stolen = await other.post(confirm, json={"password": PASSWORD})
        assert (stolen.status_code, stolen.json()["reason"]) == (401, "LOGIN_REFUSED")
        given = await other.post(confirm, json={"password": PASSWORD, "binding": bob.cookies["cairn_login"]})
        assert given.status_code == 400
        assert (await bob.post(confirm, json={"password": PASSWORD})).json()["return_path"] == "/runs"
        me = (await bob.get(f"{lab.url}{PEOPLE}")).json()
        assert me["name"] == session["user"]["name"]
        assert (await bob.post(confirm, json={"password": PASSWORD})).status_code == 401
    async with browser() as again:
        assert await lab.back(again, "id-bob") == "/#/runs"


async def test_a_login_is_of_the_browser_that_began_it_and_good_once(lab: Lab) -> None:
    await lab.place.link(lab.of("bob"))
    async with browser() as attacker, browser() as victim, browser() as ada:
        # The attacker signs in, and has the victim's browser open the last address (login CSRF).
        callback = await lab.provider.agree(attacker, await lab.begin(attacker), "id-bob")
        assert await land(victim, callback) == "/#sign-in=LOGIN_REFUSED"
        await lab.begin(victim)
        assert await land(victim, callback) == "/#sign-in=LOGIN_REFUSED"
        assert "cairn_session" not in victim.cookies
        # Nobody's trying it has used it up; its own browser has, and then it is nothing.
        login = {"Cookie": f"cairn_login={attacker.cookies['cairn_login']}"}
        assert await land(attacker, callback) == "/#/runs"
        replayed = await victim.get(callback, headers=login)
        assert replayed.headers["location"] == "/#sign-in=LOGIN_REFUSED"
        # The state is this browser's, the code somebody else's: PKCE and nonce tell.
        theirs = asked(await lab.provider.agree(attacker, await lab.begin(attacker), "id-bob"))
        mine = asked(await lab.begin(ada))
        mixed = f"{lab.url}/api/v1/oidc/callback"
        answer = await ada.get(mixed, params={**theirs, "state": mine["state"]})
        assert answer.headers["location"] == "/#sign-in=LOGIN_REFUSED"
        # Another provider's answer (mix-up), none at all, and a no.
        mine = asked(await lab.begin(ada))
        for told in (
            {"code": "x", "iss": "https://evil.example"},
            {"code": "x"},
            {"error": "access_denied"},
            {},
        ):
            answer = await ada.get(mixed, params={"state": mine["state"], **told})
            assert answer.headers["location"] == "/#sign-in=LOGIN_REFUSED"


async def test_a_login_leads_to_a_view_of_this_page_alone(lab: Lab) -> None:
    wrong = (
        "//evil.example", "https://evil.example", "/\\evil.example", "javascript:alert(1)", "runs",
        "/#token=x", "/runs\r\nSet-Cookie: a=b", "/" + "a" * 300, "/ evil",
    )  # fmt: skip
    async with browser() as who:
        for path in wrong:
            begun = await who.post(f"{lab.url}/api/v1/oidc/logins", json={"return_path": path})
            assert begun.status_code == 400, path
        # Another site cannot begin one either: what is no JSON is refused, and JSON asks first (CORS).
        form = await who.post(f"{lab.url}/api/v1/oidc/logins", data={"return_path": "/runs"})
        assert form.status_code == 415
        assert "access-control-allow-origin" not in form.headers
        begun = await who.post(f"{lab.url}/api/v1/oidc/logins", json={})
        written = begun.headers["set-cookie"]
        assert all(word in written for word in ("cairn_login=", "HttpOnly", "SameSite=Lax", "Path=/"))
    secure = await lab.place.gateway(public_url="https://cairn.lab.example")
    begun = await secure.post("/api/v1/oidc/logins", json={})
    assert begun.headers["set-cookie"].startswith("__Host-cairn-login=")
    assert "; Secure" in begun.headers["set-cookie"]


async def test_a_disabled_user_does_not_come_in(lab: Lab) -> None:
    await lab.place.link(lab.of("bob"))
    admin = bearer(lab.place.quota.tokens.admin)
    async with browser() as bob:
        assert await lab.back(bob, "id-bob") == "/#/runs"
        name = (await bob.get(f"{lab.url}{PEOPLE}")).json()["name"]
        assert (await lab.place.http.post(f"/api/v1/{name}:disable", headers=admin)).status_code == 200
        assert (await bob.get(f"{lab.url}/api/v1/me")).status_code == 401
        assert await lab.back(bob, "id-bob") == "/#sign-in=LOGIN_REFUSED"
        assert (await lab.place.http.post(f"/api/v1/{name}:enable", headers=admin)).status_code == 200
        assert await lab.back(bob, "id-bob") == "/#/runs"


async def test_groups_give_roles_and_take_them_again_and_what_people_gave_stays(start: Start) -> None:
    bosses = "bosses=nowhere:admin, ml/vision=a=main:member, bosses=main:admin"
    given = {
        "oidc_groups_claim": "groups", "oidc_groups": bosses, "oidc_scopes": "openid email profile groups",
        "oidc_domains": "lab.example",
    }  # fmt: skip
    async with start(**given) as lab, browser() as ada, browser() as none:
        # Without a verified address of the domain nobody comes in, whatever the groups.
        assert await lab.back(none, "id-none") == "/#sign-in=INVITATION_NEEDED"
        assert await lab.back(ada, "id-ada") == "/#/runs"

        async def role() -> str:
            me = (await ada.get(f"{lab.url}/api/v1/me")).json()
            return "".join(one["role"] for one in me.get("memberships", []))

        assert await role() == "ROLE_MEMBER"
        claims = accounts(lab.domain)["id-ada"]
        name = (await ada.get(f"{lab.url}{PEOPLE}")).json()["name"]
        for groups, expected in ((["bosses"], "ROLE_ADMIN"), ([], ""), (["ml/vision=a"], "ROLE_MEMBER")):
            lab.provider.accounts = {"id-ada": {**claims, "groups": groups}}
            await lab.provider.again()
            assert await lab.back(ada, "id-ada") == "/#/runs"
            assert await role() == expected
        admin = bearer(lab.place.quota.tokens.admin)
        member = f"/api/v1/teams/main/members/{name.removeprefix('users/')}"
        changed = await lab.place.http.post(f"{member}:role", json={"role": "ROLE_VIEWER"}, headers=admin)
        assert changed.status_code == 200
        await lab.back(ada, "id-ada")
        assert await role() == "ROLE_VIEWER"
        assert await entries(lab, "member.removed", f"members/{name.removeprefix('users/')}") == 1


async def test_the_operator_says_what_strangers_become(start: Start) -> None:
    given = {"oidc_sign_up": "main:viewer", "oidc_domains": "its own"}
    async with start(**given) as lab, browser() as bob, browser() as out, browser() as eve:
        assert await lab.back(bob, "id-bob") == "/#/runs"
        me = (await bob.get(f"{lab.url}/api/v1/me")).json()
        assert me["memberships"] == [{"team": "main", "role": "ROLE_VIEWER"}]
        assert await lab.back(out, "id-out") == "/#sign-in=INVITATION_NEEDED"
        assert await lab.back(eve, "id-eve") == "/#sign-in=INVITATION_NEEDED"


@pytest.mark.parametrize("client", ["in form", "public"])
async def test_a_client_shows_its_secret_as_the_provider_wants_it(
    start: Start, client: str, tmp_path: Path
) -> None:
    kept = tmp_path / "secret"
    kept.write_text(f"{SECRET}\n")
    given = {"oidc_client_secret_file": kept, "oidc_client_auth": "post"} if client == "in form" else {}
    given |= {"oidc_client_id": client, "oidc_client_secret": "", "oidc_sign_up": "main:viewer"}
    async with start(**given) as lab, browser() as bob:
        assert await lab.back(bob, "id-bob") == "/#/runs"


async def test_keys_change_and_those_that_are_gone_open_nothing(start: Start) -> None:
    old, new = key("old"), key("new")
    async with start(old, oidc_sign_up="main:viewer") as lab, browser() as bob:
        assert await lab.back(bob, "id-bob") == "/#/runs"
        await lab.provider.again(new, old)
        assert await lab.back(bob, "id-bob") == "/#/runs"


async def test_a_wrong_secret_and_a_provider_that_is_away_are_told_in_words(
    start: Start, capfd: pytest.CaptureFixture[str]
) -> None:
    wrong = "a secret that is not the client's"
    async with start(oidc_client_secret=wrong, oidc_sign_up="main:viewer") as lab, browser() as bob:
        assert await lab.back(bob, "id-bob") == "/#sign-in=LOGIN_REFUSED"
        url = await lab.begin(bob)
        await lab.provider.stop()
        told = {"code": "x", "state": asked(url)["state"], "iss": lab.provider.issuer}
        answer = await bob.get(f"{lab.url}/api/v1/oidc/callback", params=told)
        assert answer.headers["location"] == "/#sign-in=PROVIDER_UNAVAILABLE"
    said = "".join(capfd.readouterr())
    assert "invalid_client" in said
    assert wrong not in said

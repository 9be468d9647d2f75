"""What a dishonest provider, or somebody between, may say: no word of it lets anybody in."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import random
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from joserfc import jwk

from cairn.quota.v1 import user_service_pb2 as users
from cairn_common.clock import FakeClock
from cairn_common.errors import Reason
from cairn_common.settings import SettingsError
from cairn_quota.oidc import party_of
from cairn_quota.settings import QuotaSettings
from tests.harness import rogue_provider
from tests.harness.problem import problem
from tests.harness.quota import Quota, running
from tests.harness.rogue_provider import CLIENT, Rogue, rsa
from tests.harness.sign_on import asked

SECRET = "a client's secret, of tests alone"


@pytest.fixture(scope="module")
def provider() -> Iterator[Rogue]:
    with rogue_provider.running() as made:
        yield made


@pytest.fixture
def rogue(provider: Rogue) -> Rogue:
    provider.behave()
    return provider


def from_anywhere() -> tuple[tuple[str, str], ...]:
    """No attempt here is to be refused for how many there were before it."""
    return (("x-client-address", ".".join(str(random.randint(1, 254)) for _ in range(4))),)


@dataclass(frozen=True)
class Door:
    """Cairn, where people come in."""

    quota: Quota
    clock: FakeClock

    async def begin(self) -> tuple[users.CreateOidcLoginResponse, dict[str, str]]:
        """A login, and what its address asks the provider."""
        door = await self.quota.door()
        begun = await door.CreateOidcLogin(users.CreateOidcLoginRequest(), metadata=from_anywhere())
        return begun, asked(begun.url)

    async def finish(self, begun: users.CreateOidcLoginResponse, **told: str) -> users.OidcSession:
        """The browser is back."""
        sent = {"state": asked(begun.url)["state"], "code": "any", "binding": begun.binding, **told}
        door = await self.quota.door()
        return await door.FinishOidcLogin(users.FinishOidcLoginRequest(**sent), metadata=from_anywhere())

    async def is_refused(self, begun: users.CreateOidcLoginResponse, **told: str) -> bool:
        """Whether nobody is in after that."""
        return (await problem(self.finish(begun, **told))).reason is Reason.LOGIN_REFUSED


@pytest_asyncio.fixture
async def door(
    database_url: Callable[[str], str], nats_url: str, tmp_path: Path, rogue: Rogue
) -> AsyncIterator[Door]:
    clock = FakeClock()
    async with running(
        postgres_url=database_url("quota"), nats_url=nats_url, folder=tmp_path, clock=clock,
        public_url="http://127.0.0.1:1", oidc_issuer=rogue.issuer, oidc_client_id=CLIENT,
        oidc_client_secret=SECRET, oidc_sign_up="main:viewer",
    ) as quota:  # fmt: skip
        yield Door(quota, clock)


def forged(header: dict[str, Any], claims: dict[str, Any], signature: bytes = b"") -> str:
    """A token as anybody can write one."""
    parts = (json.dumps(header).encode(), json.dumps(claims).encode(), signature)
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


def by_a_shared_key(claims: dict[str, Any], key: bytes) -> str:
    """Signed by HS256."""
    text = forged({"alg": "HS256", "kid": "one"}, claims).removesuffix(".")
    made = hmac.new(key, text.encode(), hashlib.sha256).digest()
    return f"{text}.{base64.urlsafe_b64encode(made).rstrip(b'=').decode()}"


async def test_what_is_not_said_for_this_login_by_this_provider_is_nothing(door: Door, rogue: Rogue) -> None:
    now = int(door.clock.now().timestamp())
    changes: list[dict[str, Any]] = [
        {"nonce": "of another login"}, {"nonce": None}, {"nonce": ""},
        {"aud": "another client"}, {"aud": None}, {"aud": []}, {"aud": ["another", "third"]},
        {"aud": [CLIENT, "another"]}, {"aud": [CLIENT, "another"], "azp": "another"}, {"azp": "another"},
        {"iss": "https://evil.example"}, {"iss": None}, {"iss": rogue.issuer + "/"},
        {"sub": None}, {"sub": ""}, {"sub": 7}, {"sub": "x" * 256},
        {"exp": now - 61}, {"exp": None}, {"exp": "tomorrow"}, {"exp": float("nan")},
        {"iat": None}, {"iat": now + 120}, {"nbf": now + 120},
    ]  # fmt: skip
    for change in changes:
        begun, told = await door.begin()
        rogue.gives(rogue.claims(told["nonce"], **{"iat": now, "exp": now + 300, **change}))
        assert await door.is_refused(begun), change
    # The clock of the provider may go wrong by a minute.
    begun, told = await door.begin()
    late = {"exp": now - 30, "iat": now + 30, "nbf": now + 30, "aud": [CLIENT, "other"], "azp": CLIENT}
    rogue.gives(rogue.claims(told["nonce"], **late))
    assert (await door.finish(begun)).session.user.email == "rogue@lab.example"
    assert await door.is_refused(begun), "once"


async def test_no_signature_but_by_a_published_key_counts(door: Door, rogue: Rogue) -> None:
    public = rogue.key.as_pem(private=False)
    foreign, small = rsa("one"), jwk.ECKey.generate_key("P-256", {"kid": "one"})

    async def attempt(make: Callable[[dict[str, Any]], None]) -> bool:
        begun, told = await door.begin()
        now = int(door.clock.now().timestamp())
        make(rogue.claims(told["nonce"], iat=now, exp=now + 300))
        return await door.is_refused(begun)

    good_header = {"alg": "RS256", "kid": "one"}
    attacks: list[Callable[[dict[str, Any]], None]] = [
        lambda claims: rogue.gives_token(forged({"alg": "none", "kid": "one"}, claims)),
        lambda claims: rogue.gives_token(forged({"alg": "None", "kid": "one"}, claims)),
        lambda claims: rogue.gives_token(forged(good_header, claims)),
        lambda claims: rogue.gives_token(forged(good_header, claims, b"\0" * 256)),
        # The key that everybody can read, and the client's own secret, as if they were shared keys.
        lambda claims: rogue.gives_token(by_a_shared_key(claims, public)),
        lambda claims: rogue.gives_token(by_a_shared_key(claims, SECRET.encode())),
        lambda claims: rogue.gives(claims, key=foreign),
        lambda claims: rogue.gives(claims, key=small, alg="ES256"),
        lambda claims: rogue.gives(claims, key=foreign, kid="two"),
        lambda claims: rogue.gives(claims, key=foreign, kid="../../dev/null"),
        # A key that the token brings along, or says where to find.
        lambda claims: rogue.gives(claims, key=foreign, jwk=foreign.as_dict(private=False)),
        lambda claims: rogue.gives(claims, key=foreign, jku=f"{rogue.issuer}/evil"),
        lambda claims: rogue.gives_token(forged({**good_header, "crit": ["exp"], "exp": 1}, claims, b"x")),
        lambda claims: rogue.gives_token(forged({**good_header, "alg": ["RS256"]}, claims, b"x")),
        lambda claims: rogue.gives_token(base64.urlsafe_b64encode(b"[" * 20_000).decode() + ".e30.e30"),
        lambda claims: rogue.gives_token("no token"),
        lambda claims: rogue.gives_token("a.b.c.d.e"),
        lambda claims: rogue.gives_token("x" * 100_000),
        lambda claims: rogue.gives_token(None),
        lambda claims: rogue.gives_token({"alg": "none"}),
    ]
    for number, attack in enumerate(attacks):
        assert await attempt(attack), number
    assert "/evil" not in rogue.asked
    # A shared key that is published is none.
    published = base64.urlsafe_b64encode(SECRET.encode()).decode()
    rogue.answers["/jwks"] = {"keys": [{"kty": "oct", "kid": "one", "k": published}]}
    door.clock.advance(timedelta(minutes=16).total_seconds())
    assert await attempt(lambda claims: rogue.gives_token(by_a_shared_key(claims, SECRET.encode())))


async def test_a_key_that_is_new_is_found_at_once_and_one_that_is_gone_is_forgotten(
    door: Door, rogue: Rogue
) -> None:
    async def signed_by(key: jwk.RSAKey, kid: str | None) -> users.CreateOidcLoginResponse:
        begun, told = await door.begin()
        now = int(door.clock.now().timestamp())
        header = {"kid": kid} if kid else {"kid": "none"}
        rogue.gives(rogue.claims(told["nonce"], iat=now, exp=now + 300), key=key, **header)
        return begun

    old, new = rogue.key, rsa("two")
    await door.finish(await signed_by(old, "one"))
    odd = [{"kty": "OKP", "crv": "of tomorrow", "x": "AA", "kid": "x"}, {"kty": "RSA"}, "no key", None]
    rogue.answers["/jwks"] = {"keys": [*odd, new.as_dict(private=False), old.as_dict(private=False)]}
    await door.finish(await signed_by(new, "two"))
    # Who makes up keys has the provider asked no more often than every ten seconds.
    rogue.asked.clear()
    for number in range(3):
        assert await door.is_refused(await signed_by(rsa(f"k{number}"), f"k{number}"))
    assert rogue.asked.count("/jwks") == 0
    rogue.answers["/jwks"] = {"keys": [new.as_dict(private=False)]}
    door.clock.advance(timedelta(minutes=15).total_seconds())
    assert await door.is_refused(await signed_by(old, "one"))
    await door.finish(await signed_by(new, "two"))


async def test_a_login_is_over_after_a_while(door: Door, rogue: Rogue) -> None:
    begun, told = await door.begin()
    door.clock.advance(timedelta(minutes=10).total_seconds())
    now = int(door.clock.now().timestamp())
    rogue.gives(rogue.claims(told["nonce"], iat=now, exp=now + 300))
    assert await door.is_refused(begun)
    begun, told = await door.begin()
    assert await door.is_refused(begun, binding="")
    assert await door.is_refused(begun, binding="cairn_binding_of-another-browser")
    assert await door.is_refused(begun, state="")
    assert await door.is_refused(begun, state="x" * 5000)
    assert await door.is_refused(begun, issuer="https://evil.example")
    stored = await door.quota.db.fetch("SELECT l::text AS row FROM oidc_logins l")
    for secret in (begun.binding, told["state"], told["nonce"], told["code_challenge"]):
        assert not any(secret in row["row"] for row in stored)


async def test_a_provider_that_says_odd_things_of_itself_is_not_used(
    door: Door, rogue: Rogue, capfd: pytest.CaptureFixture[str]
) -> None:
    discovery = "/.well-known/openid-configuration"
    good = rogue.answers[discovery]
    odd: list[Any] = [
        404, 302, 500, b"<html>", b"[]", b"{" * 10_000, b" " * (600 * 1024),
        {**good, "issuer": "https://evil.example"},
        # It would have Cairn ask within: the cloud's metadata, a file, another machine without TLS.
        {**good, "token_endpoint": "http://169.254.169.254/latest"}, {**good, "jwks_uri": "file:///etc/passwd"},
        {**good, "authorization_endpoint": "javascript:alert(1)"},
        {**good, "userinfo_endpoint": "http://10.0.0.1/"}, {**good, "token_endpoint": None},
        {**good, "id_token_signing_alg_values_supported": ["HS256", "none"]},
    ]  # fmt: skip
    for document in odd:
        rogue.answers[discovery] = document
        told = await problem(door.begin())
        assert told.reason is Reason.PROVIDER_UNAVAILABLE, document
    assert "/elsewhere" not in rogue.asked
    rogue.answers[discovery] = good
    begun, _ = await door.begin()
    for answer, reason in ((500, Reason.PROVIDER_UNAVAILABLE), (302, Reason.PROVIDER_UNAVAILABLE)):
        rogue.answers["/token"] = answer
        assert (await problem(door.finish(begun))).reason is reason
        begun, _ = await door.begin()
    rogue.answers["/token"] = {"error": "invalid_grant", "access_token": 7}
    assert await door.is_refused(begun)
    said = "".join(capfd.readouterr())
    assert SECRET not in said
    assert begun.binding not in said


async def test_userinfo_of_somebody_else_is_refused(door: Door, rogue: Rogue) -> None:
    rogue.answers["/.well-known/openid-configuration"]["userinfo_endpoint"] = f"{rogue.issuer}/userinfo"
    for sub, is_in in (("somebody else", False), ("quiet one", True)):
        begun, told = await door.begin()
        now = int(door.clock.now().timestamp())
        bare = {"sub": "quiet one", "email": None, "email_verified": None, "iat": now, "exp": now + 300}
        rogue.gives(rogue.claims(told["nonce"], **bare))
        rogue.answers["/userinfo"] = {
            "sub": sub,
            "email": "q@lab.example",
            "email_verified": True,
            "nonce": "x",
        }
        if is_in:
            assert (await door.finish(begun)).session.user.email == "q@lab.example"
        else:
            assert await door.is_refused(begun)


@pytest.mark.parametrize(
    ("settings", "variable"),
    [
        ({"oidc_issuer": "http://provider.example"}, "CAIRN_OIDC_ISSUER"),
        ({"oidc_issuer": "http://10.0.0.1"}, "CAIRN_OIDC_ISSUER"),
        ({"oidc_issuer": "https://user@provider.example"}, "CAIRN_OIDC_ISSUER"),
        ({"oidc_issuer": "https://provider.example/?x"}, "CAIRN_OIDC_ISSUER"),
        ({"oidc_client_id": ""}, "CAIRN_OIDC_CLIENT_ID"),
        ({"public_url": ""}, "CAIRN_PUBLIC_URL"),
        ({"oidc_client_secret_file": "/nonexistent"}, "CAIRN_OIDC_CLIENT_SECRET_FILE"),
        ({"oidc_client_secret_file": "/dev/null"}, "CAIRN_OIDC_CLIENT_SECRET_FILE"),
        ({"oidc_scopes": "email"}, "CAIRN_OIDC_SCOPES"),
        ({"oidc_sign_up": "main"}, "CAIRN_OIDC_SIGN_UP"),
        ({"oidc_sign_up": "main:owner"}, "CAIRN_OIDC_SIGN_UP"),
        ({"oidc_groups": "a=main:member"}, "CAIRN_OIDC_GROUPS"),
        ({"oidc_groups": "main:member", "oidc_groups_claim": "groups"}, "CAIRN_OIDC_GROUPS"),
        ({"oidc_groups": "a=Main:member", "oidc_groups_claim": "groups"}, "CAIRN_OIDC_GROUPS"),
    ],
)
def test_settings_that_cannot_be_are_named_at_the_start(settings: dict[str, Any], variable: str) -> None:
    good = {
        "service_token": "x", "oidc_issuer": "https://provider.example", "oidc_client_id": "cairn",
        "public_url": "https://cairn.example",
    }  # fmt: skip
    party = party_of(QuotaSettings(**good, oidc_client_secret=SECRET))
    assert party is not None
    assert SECRET not in repr(party)
    with pytest.raises(SettingsError, match=variable):
        party_of(QuotaSettings(**{**good, **settings}))

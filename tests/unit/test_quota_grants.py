"""What a token opens on the bus, and what the answer to the bus is signed with."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from datetime import UTC, datetime, timedelta
from typing import Any

import nkeys
import pytest

from cairn_quota.grants import LONGEST, grant
from cairn_quota.jwt import HEADER, ConnectRequest, Issuer, read_request
from cairn_quota.model import Role, Scope, Token

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SECRET = "cairn_0123456789abcdef"
INBOX = f"_INBOX_{hashlib.sha256(SECRET.encode()).hexdigest()[:16]}.>"


def token(scope: Scope, *, subject: str = "users/ada", **fields: Any) -> Token:
    given = {"team": "", "run_uid": "", "attempt_uid": "", "expire_time": None, "revoke_time": None} | fields
    return Token(uid="u", display_name="", subject=subject, scope=scope, create_time=NOW, **given)


def test_a_runs_token_opens_its_own_run_alone() -> None:
    run = token(Scope.RUN, subject="runs/r1", team="main", run_uid="r1", expire_time=NOW + timedelta(hours=1))
    allowed = grant(run, roles={"main": Role.MEMBER}, secret=SECRET, now=NOW)
    assert allowed is not None
    assert allowed.publish == ("cairn.v1.job.run.*.main.r1", "cairn.v1.job.attempt.*.main.r1")
    assert allowed.subscribe == (
        INBOX,
        "cairn.v1.scheduler.attempt.stopping.main.r1",
        "cairn.v1.scheduler.session.opened.main.r1",
    )
    assert allowed.expires == NOW + LONGEST


def test_no_connection_outlives_its_token() -> None:
    run = token(
        Scope.RUN, subject="runs/r1", team="main", run_uid="r1", expire_time=NOW + timedelta(minutes=1)
    )
    allowed = grant(run, roles={}, secret=SECRET, now=NOW)
    assert allowed is not None
    assert allowed.expires == NOW + timedelta(minutes=1)


@pytest.mark.parametrize("scope", [Scope.WRITE, Scope.ADMIN])
def test_a_users_token_opens_the_runs_of_teams_where_it_is_a_member(scope: Scope) -> None:
    roles = {"one": Role.MEMBER, "two": Role.OWNER, "three": Role.VIEWER}
    allowed = grant(token(scope), roles=roles, secret=SECRET, now=NOW)
    assert allowed is not None
    assert allowed.publish == ("cairn.v1.job.run.*.one.*", "cairn.v1.job.run.*.two.*")


@pytest.mark.parametrize(
    ("one", "roles"),
    [
        (token(Scope.READ), {"main": Role.OWNER}),
        (token(Scope.WRITE), {"main": Role.VIEWER}),
        (token(Scope.WRITE), {}),
        (token(Scope.ADMIN, subject="services/scheduler"), {"main": Role.OWNER}),
        (token(Scope.RUN, subject="runs/r1", team="main", run_uid=">"), {}),
        (token(Scope.RUN, subject="runs/r1", team="*", run_uid="r1"), {}),
        (token(Scope.RUN, subject="runs/r1", team="main", run_uid="r.1"), {}),
        (token(Scope.RUN, subject="runs/r1", team="main", run_uid=""), {}),
    ],
)
def test_everything_else_opens_nothing(one: Token, roles: dict[str, int]) -> None:
    assert grant(one, roles=roles, secret=SECRET, now=NOW) is None


def seed(prefix: int) -> bytes:
    return bytes(nkeys.encode_seed(os.urandom(32), prefix))


def encode(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def request(key: nkeys.KeyPair, *, header: dict[str, str] = HEADER, **changes: Any) -> bytes:
    server = key.public_key.decode()
    claims = {
        "iss": server,
        "aud": "nats-authorization-request",
        "nats": {
            "type": "authorization_request",
            "server_id": {"id": server},
            "user_nkey": "UABC",
            "connect_opts": {"auth_token": SECRET},
        },
    } | changes
    signed = f"{encode(header)}.{encode(claims)}"
    signature = base64.urlsafe_b64encode(key.sign(signed.encode())).rstrip(b"=").decode()
    return f"{signed}.{signature}".encode()


def test_a_servers_request_is_read() -> None:
    key = nkeys.from_seed(seed(nkeys.PREFIX_BYTE_SERVER))
    assert read_request(request(key)) == ConnectRequest(key.public_key.decode(), "UABC", SECRET)


def test_a_request_that_no_server_signed_is_refused() -> None:
    key, other = (nkeys.from_seed(seed(nkeys.PREFIX_BYTE_SERVER)) for _ in range(2))
    user = nkeys.from_seed(seed(nkeys.PREFIX_BYTE_USER))
    good = request(key)
    head, body, signature = good.split(b".")
    foreign = request(other).split(b".")[1]
    for bad in (
        b"",
        b"..",
        b"\xff\xfe",
        good[:-8],
        head + b"." + foreign + b"." + signature,
        head + b"." + body + b".",
        request(key, header={"typ": "JWT", "alg": "none"}),
        request(key, aud="somebody"),
        request(key, iss=other.public_key.decode()),
        request(key, nats={"type": "user"}),
        request(key, nats=[]),
        request(user),
    ):
        with pytest.raises(ValueError):  # noqa: PT011
            read_request(bad)


def test_an_answer_is_signed_by_the_account_and_says_for_whom() -> None:
    issuer = Issuer(seed(nkeys.PREFIX_BYTE_ACCOUNT).decode())
    answer = issuer.answer(ConnectRequest("NSERVER", "UABC", SECRET), error="refused", now=NOW)
    head, body, signature = answer.decode().split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "=="))
    assert (claims["iss"], claims["aud"], claims["sub"]) == (issuer.account, "NSERVER", "UABC")
    assert claims["nats"]["error"] == "refused"
    assert not claims["nats"]["jwt"]
    raw = base64.urlsafe_b64decode(signature + "==")
    assert issuer._key.verify(f"{head}.{body}".encode(), raw)
    assert SECRET not in answer.decode()

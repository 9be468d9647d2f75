"""Who may call what: every RPC by every kind of caller, and the life of tokens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from grpc import aio

from cairn.quota.v1 import (
    events_pb2,
    quota_pb2,
    quota_pb2_grpc,
    team_pb2,
    token_pb2,
    user_service_pb2,
)
from cairn_common.auth import new_token
from cairn_common.bus import connect
from cairn_common.clock import FakeClock
from cairn_common.errors import Reason
from cairn_common.ids import new_uid
from cairn_quota.api import ACCESS, IDENTITY, QUOTA
from cairn_quota.user_api import USER_ACCESS, USERS
from tests.harness.problem import problem
from tests.harness.quota import Quota, running

Code = grpc.StatusCode
READ, WRITE, ADMIN, RUN = (
    token_pb2.SCOPE_READ,
    token_pb2.SCOPE_WRITE,
    token_pb2.SCOPE_ADMIN,
    token_pb2.SCOPE_RUN,
)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest_asyncio.fixture
async def quota(
    database_url: Callable[[str], str], nats_url: str, tmp_path: Path, clock: FakeClock
) -> AsyncIterator[Quota]:
    async with running(
        postgres_url=database_url("quota"), nats_url=nats_url, folder=tmp_path, clock=clock
    ) as service:
        yield service


async def create(
    quota: Quota, secret: str, *, scope: int = WRITE, seconds: int = 0, **fields: str
) -> quota_pb2.CreateTokenResponse:
    request = quota_pb2.CreateTokenRequest(scope=token_pb2.Scope.ValueType(scope), **fields)
    if seconds:
        request.ttl.FromSeconds(seconds)
    return await (await quota.identity(secret)).CreateToken(request)


@dataclass(frozen=True)
class Place:
    """A team of the admin's with a reservation in it, and a token of the admin's."""

    team: str
    job: str
    token: str

    def request(self, method: str) -> Any:
        team, job = f"teams/{self.team}", f"teams/{self.team}/jobs/{self.job}"
        ttl = {"ttl": timedelta(minutes=1)}
        requests: dict[str, Any] = {
            "GetTeam": quota_pb2.GetTeamRequest(name=team),
            "ListTeams": quota_pb2.ListTeamsRequest(),
            "CreateTeam": quota_pb2.CreateTeamRequest(team_id=f"t{new_uid()}"),
            "UpdateTeam": quota_pb2.UpdateTeamRequest(team=team_pb2.Team(name=team, display_name="x")),
            "ReserveQuota": quota_pb2.ReserveQuotaRequest(
                parent=team, reservation_id=f"{self.job}-1", job=job, amounts=team_pb2.Amounts(jobs=1)
            ),
            "ReleaseReservation": quota_pb2.ReleaseReservationRequest(
                name=f"{team}/reservations/{self.job}-1"
            ),
            "ListReservations": quota_pb2.ListReservationsRequest(parent=team),
            "GetUsage": quota_pb2.GetUsageRequest(name=team),
            "CheckToken": quota_pb2.CheckTokenRequest(token=new_token()),
            "GetCaller": quota_pb2.GetCallerRequest(),
            "CreateToken": quota_pb2.CreateTokenRequest(scope=READ),
            "RenewToken": quota_pb2.RenewTokenRequest(name=f"tokens/{self.token}", **ttl),  # type: ignore[arg-type]
            "BatchCreateTokens": quota_pb2.BatchCreateTokensRequest(
                requests=[quota_pb2.CreateTokenRequest(scope=token_pb2.SCOPE_RUN, team=self.team)]
            ),
            "BatchRevokeTokens": quota_pb2.BatchRevokeTokensRequest(names=[f"tokens/{self.token}"]),
            "RevokeToken": quota_pb2.RevokeTokenRequest(name=f"tokens/{self.token}"),
            "ListTokens": quota_pb2.ListTokensRequest(),
        }
        return requests[method]


DENIED = Code.PERMISSION_DENIED
GONE = Code.NOT_FOUND
# For methods that are not refused to everybody: what a viewer, and a stranger, of the team get.
ANSWERS: dict[str, tuple[Code, Code]] = {
    "GetTeam": (Code.OK, GONE),
    "ListTeams": (Code.OK, Code.OK),
    "CreateTeam": (DENIED, DENIED),
    "UpdateTeam": (DENIED, GONE),
    "ReserveQuota": (DENIED, DENIED),
    "ReleaseReservation": (DENIED, DENIED),
    "ListReservations": (Code.OK, GONE),
    "GetUsage": (Code.OK, GONE),
    "CheckToken": (DENIED, DENIED),
    "GetCaller": (Code.OK, Code.OK),
    "CreateToken": (Code.OK, Code.OK),
    "BatchCreateTokens": (DENIED, DENIED),
    "BatchRevokeTokens": (DENIED, DENIED),
    "RenewToken": (DENIED, DENIED),
    "RevokeToken": (GONE, GONE),
    "ListTokens": (Code.OK, Code.OK),
}


def methods() -> list[str]:
    found = []
    for service in quota_pb2.DESCRIPTOR.services_by_name.values():
        found += [f"/{service.full_name}/{method.name}" for method in service.methods]
    return found


def test_the_table_names_every_method_and_no_other() -> None:
    assert set(ACCESS) == set(methods())
    of_users = user_service_pb2.DESCRIPTOR.services_by_name["UserService"].methods
    assert set(USER_ACCESS) == {f"/{USERS}/{method.name}" for method in of_users}
    assert {method.rpartition("/")[2] for method in ACCESS} == set(ANSWERS)


async def answer(quota: Quota, method: str, token: str | None, request: Any) -> Code:
    stub: Any = quota_pb2_grpc.QuotaServiceStub
    if method.startswith(f"/{IDENTITY}/"):
        stub = quota_pb2_grpc.IdentityServiceStub
    try:
        await getattr(stub(await quota.channel(token)), method.rpartition("/")[2])(request)
    except aio.AioRpcError as error:
        return error.code()
    return Code.OK


async def test_every_rpc_by_every_kind_of_caller(quota: Quota, clock: FakeClock) -> None:
    short = await create(quota, quota.tokens.admin, scope=ADMIN, seconds=5)
    clock.advance(10)
    team = await quota.team()
    mine = await create(quota, quota.tokens.admin)
    place = Place(team, new_uid(), mine.token.uid)
    revoked = await create(quota, quota.tokens.admin, scope=ADMIN)
    await (await quota.identity()).RevokeToken(quota_pb2.RevokeTokenRequest(name=revoked.token.name))
    viewer = await quota.member(team, token_pb2.ROLE_VIEWER)
    stranger = await quota.member(await quota.team(), token_pb2.ROLE_OWNER)
    run, _ = await quota.run_token(team)
    wrong: dict[str, tuple[Code, Code]] = {}
    for method in methods():
        name = method.rpartition("/")[2]
        of_viewer, of_stranger = ANSWERS[name]
        expected = {
            "none": (None, Code.UNAUTHENTICATED),
            "junk": (new_token(), Code.UNAUTHENTICATED),
            "expired": (short.secret, Code.UNAUTHENTICATED),
            "revoked": (revoked.secret, Code.UNAUTHENTICATED),
            "run": (run, Code.OK if name == "GetCaller" else DENIED),
            "viewer": (viewer, of_viewer),
            "stranger": (stranger, of_stranger),
        }
        for who, (token, code) in expected.items():
            got = await answer(quota, method, token, place.request(name))
            if got is not code:
                wrong[f"{name} by {who}"] = (got, code)
    assert not wrong


async def test_a_foreign_team_looks_like_none(quota: Quota) -> None:
    stranger = await quota.teams(await quota.member(await quota.team(), token_pb2.ROLE_OWNER))
    team = await quota.team()
    there = await problem(stranger.GetTeam(quota_pb2.GetTeamRequest(name=f"teams/{team}")))
    nowhere = await problem(stranger.GetTeam(quota_pb2.GetTeamRequest(name="teams/nowhere")))
    everything = await problem(stranger.ListReservations(quota_pb2.ListReservationsRequest(parent="teams/-")))
    assert there.reason is nowhere.reason is everything.reason is Reason.TEAM_NOT_FOUND
    assert there.message.replace(team, "nowhere") == nowhere.message


async def test_who_may_not_run_jobs_cannot_make_a_team_to_run_them_in(quota: Quota) -> None:
    request = quota_pb2.CreateTeamRequest(team_id=f"t{new_uid()}")
    for role in (token_pb2.ROLE_VIEWER, token_pb2.ROLE_MEMBER):
        teams = await quota.teams(await quota.member("main", role))
        assert (await problem(teams.CreateTeam(request))).reason is Reason.ROLE_TOO_LOW
    teams = await quota.teams(await quota.member("main", token_pb2.ROLE_ADMIN))
    assert (await teams.CreateTeam(request)).name == f"teams/{request.team_id}"


async def test_no_token_makes_one_that_can_more_or_lives_longer(quota: Quota, clock: FakeClock) -> None:
    team = await quota.team()
    reader = await quota.member(team, token_pb2.ROLE_MEMBER, scope=READ)
    assert (await problem(create(quota, reader, scope=WRITE))).reason is Reason.SCOPE_TOO_LOW
    made = await create(quota, reader, scope=READ, seconds=60)
    assert (await problem(create(quota, made.secret, scope=READ))).metadata == {"field": "ttl"}
    assert (await problem(create(quota, made.secret, scope=READ, seconds=61))).metadata == {"field": "ttl"}
    run = {"team": team, "run_uid": new_uid()}
    assert (await problem(create(quota, quota.tokens.admin, scope=RUN, seconds=60))).code is DENIED
    assert (await problem(create(quota, quota.tokens.admin, **run))).code is Code.INVALID_ARGUMENT
    service = quota.tokens.services["scheduler"]
    assert (await problem(create(quota, service, scope=ADMIN))).reason is Reason.SCOPE_TOO_LOW
    assert (await problem(create(quota, service, scope=RUN, **run))).code is Code.INVALID_ARGUMENT
    elsewhere = {"team": "nowhere", "run_uid": new_uid()}
    error = await problem(create(quota, service, scope=RUN, seconds=60, **elsewhere))
    assert error.reason is Reason.TEAM_NOT_FOUND


async def test_a_runs_token_lives_by_renewal_and_dies_by_revocation(quota: Quota, clock: FakeClock) -> None:
    team, run_uid = await quota.team(), new_uid()
    secret, token = await quota.run_token(team, run_uid=run_uid, seconds=60)
    scheduler = await quota.identity(quota.tokens.services["scheduler"])
    who = await scheduler.CheckToken(quota_pb2.CheckTokenRequest(token=secret))
    assert (who.subject, who.scope, who.run_uid) == (f"runs/{run_uid}", RUN, run_uid)
    assert [one.team for one in who.memberships] == [team]
    clock.advance(61)
    check = quota_pb2.CheckTokenRequest(token=secret)
    assert (await problem(scheduler.CheckToken(check))).reason is Reason.TOKEN_EXPIRED
    renew = quota_pb2.RenewTokenRequest(name=token.name)
    renew.ttl.FromSeconds(60)
    await scheduler.RenewToken(renew)
    assert (await scheduler.CheckToken(check)).run_uid == run_uid
    await scheduler.RevokeToken(quota_pb2.RevokeTokenRequest(name=token.name))
    assert (await problem(scheduler.CheckToken(check))).reason is Reason.TOKEN_REVOKED
    assert (await problem(scheduler.RenewToken(renew))).reason is Reason.TOKEN_NOT_FOUND


async def test_a_repeated_request_gives_the_same_token_a_new_secret(quota: Quota) -> None:
    identity = await quota.identity(quota.tokens.services["scheduler"])
    request = quota_pb2.CreateTokenRequest(
        scope=RUN, team="main", run_uid=new_uid(), attempt_uid=new_uid(), request_id=new_uid()
    )
    request.ttl.FromSeconds(60)
    first, second = await identity.CreateToken(request), await identity.CreateToken(request)
    assert first.token == second.token
    old, new = (quota_pb2.CheckTokenRequest(token=one.secret) for one in (first, second))
    assert (await problem(identity.CheckToken(old))).reason is Reason.TOKEN_INVALID
    assert (await identity.CheckToken(new)).token_uid == first.token.uid
    request.run_uid = new_uid()
    assert (await problem(identity.CreateToken(request))).reason is Reason.REQUEST_ID_REUSED


def run_token(**fields: str) -> quota_pb2.CreateTokenRequest:
    """A request for a token of a run."""
    made = {"run_uid": new_uid(), "attempt_uid": new_uid(), "request_id": new_uid(), **fields}
    request = quota_pb2.CreateTokenRequest(scope=RUN, team="main", **made)
    request.ttl.FromSeconds(60)
    return request


async def test_many_run_tokens_are_made_together_or_not_at_all(quota: Quota) -> None:
    identity = await quota.identity(quota.tokens.services["scheduler"])
    wanted = [run_token() for _ in range(3)]
    made = await identity.BatchCreateTokens(quota_pb2.BatchCreateTokensRequest(requests=wanted))
    assert [one.token.run_uid for one in made.tokens] == [one.run_uid for one in wanted]
    for one in made.tokens:
        who = await identity.CheckToken(quota_pb2.CheckTokenRequest(token=one.secret))
        assert who.token_uid == one.token.uid
    again = await identity.BatchCreateTokens(quota_pb2.BatchCreateTokensRequest(requests=wanted))
    assert [one.token.uid for one in again.tokens] == [one.token.uid for one in made.tokens]
    # One that cannot be made: another run under a request that was used.
    wanted[1].run_uid = new_uid()
    fresh = run_token()
    batch = quota_pb2.BatchCreateTokensRequest(requests=[fresh, wanted[1]])
    assert (await problem(identity.BatchCreateTokens(batch))).reason is Reason.REQUEST_ID_REUSED
    count = "SELECT count(*) FROM tokens WHERE request_id = $1"
    assert await quota.db.fetchval(count, fresh.request_id) == 0
    twice = quota_pb2.BatchCreateTokensRequest(requests=[fresh, fresh])
    assert (await problem(identity.BatchCreateTokens(twice))).reason is Reason.REQUEST_ID_REUSED
    for size in (0, 501):
        batch = quota_pb2.BatchCreateTokensRequest(requests=[fresh] * size)
        assert (await problem(identity.BatchCreateTokens(batch))).code is Code.INVALID_ARGUMENT


async def test_many_tokens_are_revoked_together_and_each_is_told(quota: Quota) -> None:
    identity = await quota.identity(quota.tokens.services["scheduler"])
    wanted = [run_token() for _ in range(3)]
    made = await identity.BatchCreateTokens(quota_pb2.BatchCreateTokensRequest(requests=wanted))
    names = [one.token.name for one in made.tokens]
    await identity.RevokeToken(quota_pb2.RevokeTokenRequest(name=names[0]))
    batch = quota_pb2.BatchRevokeTokensRequest(names=[*names, f"tokens/{new_uid()}"])
    assert (await identity.BatchRevokeTokens(batch)).revoked == 2
    assert (await identity.BatchRevokeTokens(batch)).revoked == 0
    for one in made.tokens:
        check = identity.CheckToken(quota_pb2.CheckTokenRequest(token=one.secret))
        assert (await problem(check)).reason is Reason.TOKEN_REVOKED


async def test_a_weak_token_cannot_revoke_a_strong_one(quota: Quota) -> None:
    strong = await create(quota, quota.tokens.admin, scope=ADMIN)
    weak = await create(quota, quota.tokens.admin, scope=READ)
    identity = await quota.identity(weak.secret)
    name = quota_pb2.RevokeTokenRequest(name=strong.token.name)
    assert (await problem(identity.RevokeToken(name))).reason is Reason.SCOPE_TOO_LOW
    itself = quota_pb2.RevokeTokenRequest(name=weak.token.name)
    assert (await identity.RevokeToken(itself)).HasField("revoke_time")
    assert (await problem(identity.RevokeToken(itself))).reason is Reason.TOKEN_REVOKED


async def test_a_revocation_is_told_and_secrets_are_nowhere(quota: Quota, nats_url: str) -> None:
    made = await create(quota, quota.tokens.admin, display_name="laptop")
    identity = await quota.identity()
    listed = await identity.ListTokens(quota_pb2.ListTokensRequest())
    assert made.token in listed.tokens
    async with asyncio.timeout(10), connect(nats_url, name="test") as bus:
        await identity.RevokeToken(quota_pb2.RevokeTokenRequest(name=made.token.name))
        facts = bus.tail(
            stream="QUOTA",
            subjects=[f"cairn.v1.quota.token.revoked.-.{made.token.uid}"],
            start_sequence=1,
        )
        async for message in facts:
            event = events_pb2.QuotaEvent.FromString(message.data)
            assert event.token_revoked.token.uid == made.token.uid
            assert made.secret.encode() not in message.data
            await facts.aclose()
            break
    rows = await quota.db.fetch("SELECT t::text AS line FROM tokens t")
    assert not any(made.secret in row["line"] or quota.tokens.admin in row["line"] for row in rows)


async def test_a_services_own_bad_token_is_not_taken_for_the_callers(quota: Quota) -> None:
    identity = await quota.identity(new_token())
    error = await problem(identity.CheckToken(quota_pb2.CheckTokenRequest(token=quota.tokens.admin)))
    assert error.metadata["checked"] == "caller"
    good = await quota.identity(quota.tokens.services["gateway"])
    error = await problem(good.CheckToken(quota_pb2.CheckTokenRequest(token=new_token())))
    assert "checked" not in error.metadata
    assert QUOTA.startswith("cairn.quota")

"""What makes something may be sent again, and again at once: one is made, and each answer is the same."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from google.protobuf.message import Message
from grpc import aio

from cairn.quota.v1 import allocation_pb2, quota_pb2, team_pb2, token_pb2, webhook_pb2
from cairn.quota.v1 import user_service_pb2 as users
from cairn.quota.v1.webhook_service_pb2 import CreateWebhookRequest
from cairn_common.clock import FakeClock
from cairn_common.errors import Reason
from cairn_common.ids import new_uid
from tests.harness.problem import problem
from tests.harness.quota import Quota, running

SECRETS = ("CreateInvitation", "CreateAccountToken", "CreateWebhook", "CreateToken")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest_asyncio.fixture
async def quota(
    database_url: Callable[[str], str], nats_url: str, tmp_path: Path, clock: FakeClock
) -> AsyncIterator[Quota]:
    async with running(
        postgres_url=database_url("quota"), nats_url=nats_url, folder=tmp_path, clock=clock,
        secrets_key="k" * 40,
    ) as service:  # fmt: skip
        yield service


class Lost(aio.UnaryUnaryClientInterceptor):
    """Loses each answer, once the server has given it."""

    async def intercept_unary_unary(
        self, continuation: Any, client_call_details: Any, request: Any
    ) -> aio.UnaryUnaryCall[Any, Any]:
        await (await continuation(client_call_details, request))
        raise aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, aio.Metadata(), aio.Metadata(), "lost")


async def lose(quota: Quota, token: str, name: str, request: Message) -> None:
    """The call is made, and its answer does not arrive."""
    service = "QuotaService" if name == "CreateTeam" else "UserService"
    service = {"CreateWebhook": "WebhookService", "CreateToken": "IdentityService"}.get(name, service)
    async with aio.insecure_channel(quota.address, interceptors=[Lost()]) as channel:
        call = channel.unary_unary(
            f"/cairn.quota.v1.{service}/{name}", request_serializer=type(request).SerializeToString
        )
        with pytest.raises(aio.AioRpcError, match="lost"):
            await call(request, metadata=(("authorization", f"Bearer {token}"),))


async def calls(quota: Quota, team: str, token: str) -> dict[str, tuple[Any, Message, str]]:
    """By the name of each call: the call, its request, and SQL that counts what it makes."""
    people, hooks = await quota.people(token), await quota.webhooks(token)
    parent, member = f"teams/{team}", token_pb2.ROLE_MEMBER
    await people.CreateServiceAccount(
        users.CreateServiceAccountRequest(parent=parent, account_id="ci", role=member)
    )
    await quota.db.execute(
        "INSERT INTO users (id, uid, email, display_name, kind, state, creator, create_time, update_time)"
        " VALUES ('bob', 'bob', 'bob@lab.example', '', 1, 1, 'users/admin', now(), now())"
    )
    made = {
        "CreateTeam": (
            (await quota.teams(token)).CreateTeam,
            quota_pb2.CreateTeamRequest(team_id=f"n{new_uid()}", team=team_pb2.Team(display_name="A")),
            "SELECT count(*) FROM teams",
        ),
        "CreateInvitation": (
            people.CreateInvitation,
            users.CreateInvitationRequest(parent=parent, email="ada@lab.example", role=member),
            "SELECT count(*) FROM invitations",
        ),
        "CreateMembership": (
            people.CreateMembership,
            users.CreateMembershipRequest(parent=parent, user="bob@lab.example", role=member),
            "SELECT count(*) FROM memberships",
        ),
        "CreateServiceAccount": (
            people.CreateServiceAccount,
            users.CreateServiceAccountRequest(parent=parent, account_id="bot", role=member),
            "SELECT count(*) FROM users",
        ),
        "CreateAccountToken": (
            people.CreateAccountToken,
            users.CreateAccountTokenRequest(name=f"{parent}/members/ci.{team}", scope=token_pb2.SCOPE_READ),
            "SELECT count(*) FROM tokens",
        ),
        "CreateToken": (
            (await quota.identity(token)).CreateToken,
            quota_pb2.CreateTokenRequest(scope=token_pb2.SCOPE_READ),
            "SELECT count(*) FROM tokens",
        ),
        "CreateWebhook": (
            hooks.CreateWebhook,
            CreateWebhookRequest(parent=parent, webhook=webhook_pb2.Webhook(url="https://a.example/x")),
            "SELECT count(*) FROM webhooks",
        ),
    }
    for _, request, _ in made.values():
        request.request_id = new_uid()
    return made


async def test_twenty_at_once_and_a_lost_answer_make_one_and_each_gets_the_same(quota: Quota) -> None:
    team, token = await quota.team(), quota.tokens.admin
    for name, (call, request, count) in (await calls(quota, team, token)).items():
        before = await quota.db.fetchval(count)
        await lose(quota, token, name, request)
        answers = await asyncio.gather(*(call(request) for _ in range(20)))
        assert {answer.SerializeToString(deterministic=True) for answer in answers} == {
            answers[0].SerializeToString(deterministic=True)
        }, name
        assert await quota.db.fetchval(count) == before + 1, name
        if name in SECRETS:
            find = "SELECT answer FROM requests WHERE request_id = $1"
            kept = await quota.db.fetchval(find, request.request_id)
            assert answers[0].secret.encode() not in kept


async def test_an_id_stands_for_one_request_and_a_secret_is_told_for_an_hour_to_one_token(
    quota: Quota, clock: FakeClock
) -> None:
    team = await quota.team()
    ada = await quota.member(team, token_pb2.ROLE_ADMIN)
    people = await quota.people(ada)
    asked = users.CreateInvitationRequest(
        parent=f"teams/{team}", email="eve@lab.example", role=token_pb2.ROLE_MEMBER, request_id="r1"
    )
    first = await people.CreateInvitation(asked)
    other = users.CreateInvitationRequest()
    other.CopyFrom(asked)
    other.email = "eva@lab.example"
    assert (await problem(people.CreateInvitation(other))).reason is Reason.REQUEST_ID_REUSED
    account = users.CreateServiceAccountRequest(
        parent=f"teams/{team}", account_id="ci", role=token_pb2.ROLE_MEMBER, request_id="r1"
    )
    assert (await problem(people.CreateServiceAccount(account))).reason is Reason.REQUEST_ID_REUSED
    # What was refused has not used its id up.
    wrong = users.CreateServiceAccountRequest(
        parent=f"teams/{team}", account_id="ci", role=token_pb2.ROLE_OWNER, request_id="r2"
    )
    assert (await problem(people.CreateServiceAccount(wrong))).reason is not Reason.REQUEST_ID_REUSED
    account.request_id = "r2"
    assert (await people.CreateServiceAccount(account)).name == f"users/ci.{team}"
    # Another person's ids are theirs.
    bob = await quota.people(await quota.member(team, token_pb2.ROLE_ADMIN))
    assert (await bob.CreateInvitation(asked)).invitation.name != first.invitation.name
    # Another token of the same person is told what was made, and not the secret.
    second = await (await quota.identity(ada)).CreateToken(
        quota_pb2.CreateTokenRequest(scope=token_pb2.SCOPE_ADMIN)
    )
    again = await problem((await quota.people(second.secret)).CreateInvitation(asked))
    assert (again.reason, again.metadata["name"]) == (Reason.SECRET_TOLD, first.invitation.name)
    clock.advance(59 * 60)
    assert await people.CreateInvitation(asked) == first
    clock.advance(2 * 60)
    assert (await problem(people.CreateInvitation(asked))).reason is Reason.SECRET_TOLD
    clock.advance(24 * 3600)
    assert (await people.CreateInvitation(asked)).invitation.name != first.invitation.name


async def test_another_tree_or_team_under_a_used_id_is_refused(quota: Quota) -> None:
    admin, teams = await quota.allocation(), await quota.teams()
    tree = "flavors: {h100: {}}\ntree: {organisation: acme, quotas: {h100: {gpu: {max: %d}}}}\n"
    asked = allocation_pb2.ApplyTreeRequest(document=tree % 4, request_id="t1")
    first = await admin.ApplyTree(asked)
    assert (await admin.ApplyTree(asked)).tree == first.tree
    other = allocation_pb2.ApplyTreeRequest(document=tree % 5, request_id="t1")
    assert (await problem(admin.ApplyTree(other))).reason is Reason.REQUEST_ID_REUSED
    team = quota_pb2.CreateTeamRequest(team_id="once", request_id="m1")
    await teams.CreateTeam(team)
    team.team_id = "twice"
    assert (await problem(teams.CreateTeam(team))).reason is Reason.REQUEST_ID_REUSED

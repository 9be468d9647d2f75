"""Secrets of teams and users at the quota service: who may set and use them, and how they are kept."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
import pytest_asyncio
from grpc import aio

from cairn.quota.v1 import audit_pb2, token_pb2
from cairn.quota.v1 import secret_service_pb2 as pb
from cairn_common.auth import hash_token
from cairn_common.errors import FailedPrecondition, Reason, from_rpc_error
from tests.harness.problem import problem
from tests.harness.quota import Quota, Tokens, running

VALUE, OWN = "hf_of the whole team", "hf_of one alone"
OLD, NEW = "first key " * 4, "second key " * 4
TEAMS, MINE = "teams/main/secrets/HF_TOKEN", "users/me/secrets/HF_TOKEN"
Start = Callable[..., AbstractAsyncContextManager[Quota]]


@pytest.fixture
def start(database_url: Callable[[str], str], nats_url: str, tmp_path: Path) -> Start:
    """The service with this key, again and again over the same data."""
    url, tokens = database_url("quota"), Tokens()

    def make(key: str, old: str = "") -> AbstractAsyncContextManager[Quota]:
        return running(
            postgres_url=url, nats_url=nats_url, folder=tmp_path, tokens=tokens,
            secrets_key=key, secrets_key_old=old,
        )  # fmt: skip

    return make


@pytest_asyncio.fixture
async def quota(start: Start) -> AsyncIterator[Quota]:
    async with start(OLD) as made:
        await made.db.execute("DELETE FROM secrets")
        yield made


async def use(quota: Quota, user: str, *, team: str = "main") -> dict[str, str]:
    """What a job of this user gets. Raises the DomainError of the answer."""
    stub = await quota.secrets(quota.tokens.services["scheduler"])
    asked = pb.UseSecretsRequest(parent=f"teams/{team}", user=user, variables=["HF_TOKEN", "GONE"])
    try:
        return dict((await stub.UseSecrets(asked)).values)
    except aio.AioRpcError as error:
        raise from_rpc_error(error) from None


async def subject_of(quota: Quota, secret: str) -> str:
    return str(await quota.db.fetchval("SELECT subject FROM tokens WHERE hash = $1", hash_token(secret)))


async def test_admins_set_the_teams_everybody_their_own_and_nobody_is_shown_them(quota: Quota) -> None:
    member = await quota.member("main", token_pb2.ROLE_MEMBER)
    ada, admin = await quota.secrets(member), await quota.secrets()
    made = await admin.SetSecret(pb.SetSecretRequest(name=TEAMS, value="a first value"))
    again = await admin.SetSecret(pb.SetSecretRequest(name=TEAMS, value=VALUE))
    assert (again.variable, again.setter, again.create_time) == ("HF_TOKEN", "users/admin", made.create_time)
    await ada.SetSecret(pb.SetSecretRequest(name=MINE, value=OWN))
    listed = [await ada.ListSecrets(pb.ListSecretsRequest(parent=one)) for one in ("teams/main", "users/me")]
    subject = await subject_of(quota, member)
    assert [one.secrets[0].name for one in listed] == [TEAMS, f"{subject}/secrets/HF_TOKEN"]
    assert await use(quota, subject) == {"HF_TOKEN": OWN}
    assert await use(quota, "users/admin") == {"HF_TOKEN": VALUE}
    entries = await (await quota.audit()).ListAuditEntries(
        audit_pb2.ListAuditEntriesRequest(parent="teams/-", action="secret.")
    )
    for kept in (*listed, entries, *await quota.db.fetch("SELECT s::text FROM secrets s")):
        assert VALUE not in str(kept)
        assert OWN not in str(kept)
    assert [entry.action for entry in entries.entries[:3]] == ["secret.set"] * 3
    await ada.DeleteSecret(pb.DeleteSecretRequest(name=MINE))
    assert await use(quota, subject) == {"HF_TOKEN": VALUE}
    gone = await problem(ada.DeleteSecret(pb.DeleteSecretRequest(name=MINE)))
    assert gone.reason is Reason.SECRET_NOT_FOUND
    # Who has left the team, or is disabled, has left nothing behind that runs with its secrets.
    await quota.db.execute("DELETE FROM memberships WHERE subject = $1", subject)
    assert await use(quota, subject) == {}
    await quota.db.execute("UPDATE users SET state = 2 WHERE id = 'admin'")
    assert await use(quota, "users/admin") == {}
    await quota.db.execute("UPDATE users SET state = 1 WHERE id = 'admin'")


async def test_who_may_not_and_what_cannot_be_is_refused_without_its_value(quota: Quota) -> None:
    await (await quota.secrets()).SetSecret(pb.SetSecretRequest(name=TEAMS, value=VALUE))
    team = await quota.team()
    member, viewer, writer, stranger = [
        await quota.secrets(await quota.member(*given[:2], scope=given[2]))
        for given in (
            ("main", token_pb2.ROLE_MEMBER, 3), ("main", token_pb2.ROLE_VIEWER, 3),
            ("main", token_pb2.ROLE_ADMIN, 2), (team, token_pb2.ROLE_OWNER, 3),
        )
    ]  # fmt: skip
    run = await quota.secrets((await quota.run_token("main"))[0])
    for stub, name, reason in (
        (member, TEAMS, Reason.ROLE_TOO_LOW),
        (viewer, TEAMS, Reason.ROLE_TOO_LOW),
        (writer, MINE, Reason.SCOPE_TOO_LOW),
        (run, MINE, Reason.SCOPE_TOO_LOW),
        (stranger, TEAMS, Reason.TEAM_NOT_FOUND),
        (member, "users/admin/secrets/HF_TOKEN", Reason.USER_NOT_FOUND),
        (member, "users/me/secrets/CAIRN_TOKEN", Reason.FIELD_INVALID),
        (member, "users/me/secrets/A B", Reason.FIELD_INVALID),
        (member, "users/me/secrets/a/b", Reason.FIELD_INVALID),
        (member, "runs/x", Reason.NAME_INVALID),
    ):
        refused = await problem(stub.SetSecret(pb.SetSecretRequest(name=name, value=VALUE)))
        assert refused.reason is reason, name
        assert VALUE not in str(refused)
        assert (await problem(stub.DeleteSecret(pb.DeleteSecretRequest(name=name)))).reason is reason
    for value in ("short", "x" * 70_000, "with\0nul"):
        refused = await problem(member.SetSecret(pb.SetSecretRequest(name=MINE, value=value)))
        assert refused.reason is Reason.FIELD_INVALID
        assert value not in str(refused)
    for by in ("gateway", "tracker"):
        stub = await quota.secrets(quota.tokens.services[by])
        refused = await problem(
            stub.UseSecrets(pb.UseSecretsRequest(parent="teams/main", user="users/admin"))
        )
        assert refused.reason is Reason.ROLE_TOO_LOW
    assert await use(quota, "users/admin", team=team) == {}


async def test_another_key_seals_anew_what_the_one_before_it_sealed(start: Start) -> None:
    async def sealed(quota: Quota) -> bytes:
        return bytes(await quota.db.fetchval("SELECT sealed FROM secrets"))

    async with start(OLD) as quota:
        await quota.db.execute("DELETE FROM secrets")
        await (await quota.secrets()).SetSecret(pb.SetSecretRequest(name=TEAMS, value=VALUE))
        first = await sealed(quota)
    async with start(NEW) as quota:
        with pytest.raises(FailedPrecondition, match=TEAMS) as refused:
            await use(quota, "users/admin")
        assert refused.value.reason is Reason.SECRET_SEALED
        assert await sealed(quota) == first
    async with start(NEW, OLD) as quota:
        assert await sealed(quota) != first
        assert await use(quota, "users/admin") == {"HF_TOKEN": VALUE}
    async with start(NEW) as quota:
        assert await use(quota, "users/admin") == {"HF_TOKEN": VALUE}
        # What was sealed for one owner opens for no other.
        await quota.db.execute("UPDATE secrets SET variable = 'GONE'")
        with pytest.raises(FailedPrecondition, match="another key"):
            await use(quota, "users/admin")

"""People and programs: how they get in, what they become, and how they are put out again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
from grpc import aio

from cairn.quota.v1 import quota_pb2, token_pb2, user_pb2
from cairn.quota.v1 import user_service_pb2 as users
from cairn_common.auth import TokenChecker, new_token
from cairn_common.bus import connect
from cairn_common.clock import FakeClock
from cairn_common.errors import DomainError, Reason, from_rpc_error
from cairn_common.ids import new_uid
from tests.harness.problem import problem
from tests.harness.quota import Quota, running

VIEWER, MEMBER, ADMIN, OWNER = (
    token_pb2.ROLE_VIEWER,
    token_pb2.ROLE_MEMBER,
    token_pb2.ROLE_ADMIN,
    token_pb2.ROLE_OWNER,
)
PASSWORD = "four words put together"


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


@dataclass(frozen=True)
class Person:
    """Somebody who came in by a link."""

    id: str
    email: str
    secret: str


async def link(quota: Quota, team: str, role: Any, *, email: str = "", by: str | None = None) -> str:
    asked = users.CreateInvitationRequest(
        parent=f"teams/{team}", email=email or f"u{new_uid()}@lab.example", role=role
    )
    return (await (await quota.people(by)).CreateInvitation(asked)).secret


async def come_in(quota: Quota, secret: str, password: str = PASSWORD) -> Person:
    door = await quota.door()
    session = await door.AcceptInvitation(users.AcceptInvitationRequest(secret=secret, password=password))
    return Person(session.user.name.removeprefix("users/"), session.user.email, session.secret)


async def person(quota: Quota, team: str, role: Any, *, by: str | None = None) -> Person:
    return await come_in(quota, await link(quota, team, role, by=by))


async def roles(quota: Quota, secret: str) -> dict[str, int]:
    me = await (await quota.identity(secret)).GetCaller(quota_pb2.GetCallerRequest())
    return {one.team: one.role for one in me.memberships}


async def sign_in(quota: Quota, email: str, password: str, *, address: str = "10.1.1.1") -> users.Session:
    door = await quota.door()
    asked = users.CreateSessionRequest(email=email, password=password)
    return await door.CreateSession(asked, metadata=(("x-client-address", address),))


def update(team: str, who: str, role: Any) -> users.UpdateMembershipRequest:
    return users.UpdateMembershipRequest(name=f"teams/{team}/members/{who}", role=role)


def leave(team: str, who: str) -> users.DeleteMembershipRequest:
    return users.DeleteMembershipRequest(name=f"teams/{team}/members/{who}")


async def test_somebody_comes_in_by_a_link_once_and_by_their_password_ever_after(quota: Quota) -> None:
    team = await quota.team()
    secret = await link(quota, team, MEMBER, email="Ada@Lab.Example")
    ada = await come_in(quota, secret)
    assert (ada.id, ada.email) == ("ada", "ada@lab.example")
    assert await roles(quota, ada.secret) == {team: MEMBER}
    door = await quota.door()
    again = door.AcceptInvitation(users.AcceptInvitationRequest(secret=secret, password=PASSWORD))
    assert (await problem(again)).reason is Reason.INVITATION_INVALID
    session = await sign_in(quota, "ADA@lab.example", PASSWORD)
    assert await roles(quota, session.secret) == {team: MEMBER}
    for email, password in (("ada@lab.example", "four words put Together"), ("eve@lab.example", PASSWORD)):
        assert (await problem(sign_in(quota, email, password))).reason is Reason.PASSWORD_WRONG
    stored = await quota.db.fetchrow("SELECT password_hash FROM users WHERE id = 'ada'")
    assert stored is not None
    assert stored["password_hash"].startswith("$argon2id$")
    # Another one with such an address gets an id of their own; who is there already shows the password.
    other = await come_in(quota, await link(quota, team, VIEWER, email="ada@other.example"))
    assert other.id == "ada-2"
    second = await quota.team()
    secret = await link(quota, second, VIEWER, email="ada@lab.example")
    wrong = door.AcceptInvitation(users.AcceptInvitationRequest(secret=secret, password="not hers at all"))
    assert (await problem(wrong)).reason is Reason.PASSWORD_WRONG
    assert (await come_in(quota, secret)).id == "ada"
    assert await roles(quota, ada.secret) == {team: MEMBER, second: VIEWER}


async def test_a_link_ends_by_time_by_its_maker_and_with_its_makers_role(
    quota: Quota, clock: FakeClock
) -> None:
    team = await quota.team()
    admin = await person(quota, team, ADMIN)
    people = await quota.people()
    old, revoked, orphan = [await link(quota, team, ADMIN, by=admin.secret) for _ in range(3)]
    listed = await people.ListInvitations(users.ListInvitationsRequest(parent=f"teams/{team}", page_size=2))
    assert len(listed.invitations) == 2
    assert listed.next_page_token
    assert not any(secret in str(listed) for secret in (old, revoked, orphan))
    second = listed.invitations[1]
    await people.RevokeInvitation(users.RevokeInvitationRequest(name=second.name))
    await people.UpdateMembership(update(team, admin.id, MEMBER))
    door = await quota.door()

    async def refused(secret: str) -> bool:
        asked = users.AcceptInvitationRequest(secret=secret, password=PASSWORD)
        return (await problem(door.AcceptInvitation(asked))).reason is Reason.INVITATION_INVALID

    assert await refused(revoked)
    assert await refused(orphan)
    await people.UpdateMembership(update(team, admin.id, ADMIN))
    left = await link(quota, team, ADMIN, by=admin.secret)
    await people.DisableUser(users.DisableUserRequest(name=f"users/{admin.id}"))
    assert await refused(left)
    clock.advance(timedelta(days=8).total_seconds())
    assert await refused(old)
    assert await refused("cairn_invite_" + "x" * 43)
    accepted = (
        await people.ListInvitations(users.ListInvitationsRequest(parent=f"teams/{team}"))
    ).invitations[-1]
    asked = users.RevokeInvitationRequest(name=accepted.name)
    assert (await problem(people.RevokeInvitation(asked))).reason is Reason.STATE_INVALID


async def test_nobody_raises_themselves_or_their_program_on_any_path(quota: Quota) -> None:
    team = await quota.team()
    member, admin = await person(quota, team, MEMBER), await person(quota, team, ADMIN)
    owner = await quota.people()
    account = await owner.CreateServiceAccount(
        users.CreateServiceAccountRequest(parent=f"teams/{team}", account_id="ci", role=MEMBER)
    )
    bot = account.name.removeprefix("users/")
    assert bot == f"ci.{team}"
    name = f"teams/{team}/members/{bot}"
    made = await owner.CreateAccountToken(
        users.CreateAccountTokenRequest(name=name, scope=token_pb2.SCOPE_WRITE)
    )
    assert await roles(quota, made.secret) == {team: MEMBER}
    wrong = {}
    for who, secret in {"member": member.secret, "bot": made.secret}.items():
        people = await quota.people(secret)
        tries = {
            "self": people.UpdateMembership(update(team, member.id, ADMIN)),
            "bot": people.UpdateMembership(update(team, bot, ADMIN)),
            "invite": people.CreateInvitation(
                users.CreateInvitationRequest(parent=f"teams/{team}", email="x@lab.example", role=OWNER)
            ),
            "add": people.CreateMembership(
                users.CreateMembershipRequest(parent=f"teams/{team}", user=f"users/{bot}", role=ADMIN)
            ),
            "account": people.CreateServiceAccount(
                users.CreateServiceAccountRequest(parent=f"teams/{team}", account_id="x", role=MEMBER)
            ),
            "token": people.CreateAccountToken(
                users.CreateAccountTokenRequest(name=name, scope=token_pb2.SCOPE_WRITE)
            ),
            "link": people.CreateInvitation(
                users.CreateInvitationRequest(parent="teams/main", user="users/admin")
            ),
            "disable": people.DisableUser(users.DisableUserRequest(name="users/admin")),
        }
        for what, call in tries.items():
            error = await problem(call)
            if error.code.name not in ("PERMISSION_DENIED", "NOT_FOUND"):
                wrong[who, what] = error
    assert not wrong
    # An admin of the team: nothing above admin, and no program above member.
    people = await quota.people(admin.secret)
    for call in (
        people.UpdateMembership(update(team, admin.id, OWNER)),
        people.UpdateMembership(update(team, "admin", MEMBER)),
        people.DeleteMembership(leave(team, "admin")),
        people.CreateInvitation(
            users.CreateInvitationRequest(parent=f"teams/{team}", email="x@lab.example", role=OWNER)
        ),
    ):
        assert (await problem(call)).reason is Reason.ROLE_TOO_LOW
    assert (await problem(owner.UpdateMembership(update(team, bot, ADMIN)))).reason is Reason.FIELD_INVALID
    asked = users.CreateAccountTokenRequest(name=name, scope=token_pb2.SCOPE_ADMIN)
    assert (await problem(owner.CreateAccountToken(asked))).reason is Reason.FIELD_INVALID
    await owner.DisableServiceAccount(users.DisableServiceAccountRequest(name=name))
    assert (await problem(roles(quota, made.secret))).reason is Reason.TOKEN_REVOKED


async def test_of_two_last_owners_who_leave_at_once_one_stays(quota: Quota) -> None:
    team = await quota.team()
    other = await person(quota, team, OWNER)
    calls = [
        (await quota.people()).DeleteMembership(leave(team, "admin")),
        (await quota.people(other.secret)).DeleteMembership(leave(team, other.id)),
    ]
    ends = await asyncio.gather(*calls, return_exceptions=True)
    failed = [from_rpc_error(end) for end in ends if isinstance(end, aio.AioRpcError)]
    assert [error.reason for error in failed] == [Reason.OWNER_LAST]
    left = await quota.db.fetchval("SELECT count(*) FROM memberships WHERE team = $1 AND role = 4", team)
    assert left == 1


async def test_another_role_is_felt_by_the_neighbours_at_once(quota: Quota, nats_url: str) -> None:
    team, elsewhere = await quota.team(), await quota.team()
    member = await person(quota, team, MEMBER)
    people = await quota.people()
    await people.CreateMembership(
        users.CreateMembershipRequest(parent=f"teams/{elsewhere}", user=member.email, role=VIEWER)
    )
    heard: asyncio.Queue[str] = asyncio.Queue()
    async with connect(nats_url, name="neighbour") as bus:
        checker = TokenChecker(await quota.channel(quota.tokens.services["tracker"]))
        following = asyncio.create_task(
            checker.follow(bus, lambda event: heard.put_nowait(str(event.WhichOneof("event"))))
        )

        async def until(event: str) -> dict[str, int]:
            async with asyncio.timeout(20):
                while await heard.get() != event:
                    pass
            return {name: int(role) for name, role in (await checker.check(member.secret)).roles.items()}

        # It hears what is told once it listens: what it has heard shows that it does.
        listening = False
        while not listening:
            await people.UpdateMembership(update(elsewhere, member.id, MEMBER))
            await people.UpdateMembership(update(elsewhere, member.id, VIEWER))
            with suppress(TimeoutError):
                listening = bool(await asyncio.wait_for(heard.get(), 0.5))
        assert (await checker.check(member.secret)).roles == {team: MEMBER, elsewhere: VIEWER}
        await people.UpdateMembership(update(team, member.id, VIEWER))
        while (seen := await until("member_updated"))[team] != VIEWER:
            pass
        assert seen == {team: VIEWER, elsewhere: VIEWER}
        removed = await people.DeleteMembership(leave(team, member.id))
        assert removed.tokens_revoked == 0
        assert await until("member_removed") == {elsewhere: VIEWER}
        # Who is in no team has no token left.
        removed = await people.DeleteMembership(leave(elsewhere, member.id))
        assert removed.tokens_revoked == 1
        async with asyncio.timeout(20):
            while await heard.get() != "token_revoked":
                pass
        with pytest.raises(DomainError) as caught:
            await checker.check(member.secret)
        assert caught.value.reason is Reason.TOKEN_REVOKED
        following.cancel()


async def test_a_disabled_user_has_no_way_in_and_the_last_owner_is_not_disabled(quota: Quota) -> None:
    team = await quota.team()
    owner = await person(quota, team, OWNER)
    people = await quota.people()
    name = f"users/{owner.id}"
    disabled = await people.DisableUser(users.DisableUserRequest(name=name))
    assert disabled.state == user_pb2.User.DISABLED
    assert (await problem(roles(quota, owner.secret))).reason is Reason.TOKEN_REVOKED
    assert (await problem(sign_in(quota, owner.email, PASSWORD))).reason is Reason.PASSWORD_WRONG
    # The admin is now the only owner who can do anything.
    assert (await problem(people.DeleteMembership(leave(team, "admin")))).reason is Reason.OWNER_LAST
    await people.EnableUser(users.EnableUserRequest(name=name))
    session = await sign_in(quota, owner.email, PASSWORD)
    await people.DeleteMembership(leave(team, "admin"))
    asked = users.DisableUserRequest(name=name)
    assert (await problem(people.DisableUser(asked))).reason is Reason.OWNER_LAST
    assert await roles(quota, session.secret) == {team: OWNER}
    assert (await problem(people.DisableUser(users.DisableUserRequest(name="users/admin")))).code.name == (
        "PERMISSION_DENIED"
    )
    mere = await quota.people(session.secret)
    assert (await problem(mere.ListUsers(users.ListUsersRequest()))).reason is Reason.ROLE_TOO_LOW


async def test_people_of_other_teams_are_not_to_be_seen(quota: Quota) -> None:
    mine, theirs = await quota.team(), await quota.team()
    me, them = await person(quota, mine, OWNER), await person(quota, theirs, MEMBER)
    people = await quota.people(me.secret)
    found = await people.GetUser(users.GetUserRequest(name="users/me"))
    assert (found.name, found.has_password) == (f"users/{me.id}", True)
    nobody, hidden = [
        await problem(people.GetUser(users.GetUserRequest(name=f"users/{one}")))
        for one in ("nobody", them.id)
    ]
    assert nobody.message.replace("nobody", them.id) == hidden.message
    for user in (them.email, f"users/{them.id}", "nobody@lab.example"):
        asked = users.CreateMembershipRequest(parent=f"teams/{mine}", user=user, role=MEMBER)
        assert (await problem(people.CreateMembership(asked))).reason is Reason.USER_NOT_FOUND
    asked_list = users.ListMembershipsRequest(parent=f"teams/{theirs}")
    assert (await problem(people.ListMemberships(asked_list))).reason is Reason.TEAM_NOT_FOUND
    mates = await people.ListMemberships(users.ListMembershipsRequest(parent=f"teams/{mine}"))
    assert {one.user for one in mates.memberships} == {"users/admin", f"users/{me.id}"}


async def test_guessing_is_stopped_for_the_guesser_and_not_for_the_guessed(
    quota: Quota, clock: FakeClock
) -> None:
    team = await quota.team()
    ada = await person(quota, team, MEMBER)
    for email in (ada.email, "nobody@lab.example"):
        answers = [await problem(sign_in(quota, email, f"guess number {n}")) for n in range(7)]
        assert [one.reason for one in answers] == [Reason.PASSWORD_WRONG] * 5 + [Reason.RATE_EXCEEDED] * 2
        assert 0 < int(answers[-1].metadata["retry_after"]) <= 900
    # Even the right one does not help there, while she comes in from elsewhere.
    assert (await problem(sign_in(quota, ada.email, PASSWORD))).reason is Reason.RATE_EXCEEDED
    await sign_in(quota, ada.email, PASSWORD, address="10.2.2.2")
    # Many accounts from one address.
    reasons = {(await problem(sign_in(quota, f"u{n}@lab.example", "guess a word"))).reason for n in range(20)}
    assert reasons == {Reason.PASSWORD_WRONG, Reason.RATE_EXCEEDED}
    clock.advance(timedelta(minutes=15).total_seconds())
    await sign_in(quota, ada.email, PASSWORD)


async def test_many_guesses_at_once_are_no_more_than_one_after_another(quota: Quota) -> None:
    ada = await person(quota, await quota.team(), MEMBER)
    ends = await asyncio.gather(
        *(sign_in(quota, ada.email, f"guess number {n}") for n in range(20)), return_exceptions=True
    )
    reasons = [from_rpc_error(end).reason for end in ends if isinstance(end, aio.AioRpcError)]
    assert reasons.count(Reason.PASSWORD_WRONG) == 5
    assert reasons.count(Reason.RATE_EXCEEDED) == 15


async def test_another_password_takes_the_present_one_and_ends_the_other_sessions(quota: Quota) -> None:
    ada = await person(quota, await quota.team(), MEMBER)
    other = await sign_in(quota, ada.email, PASSWORD)
    people = await quota.people(ada.secret)
    new = "five words put together now"
    wrong = users.SetPasswordRequest(current_password="not that", new_password=new)
    assert (await problem(people.SetPassword(wrong))).reason is Reason.PASSWORD_WRONG
    await people.SetPassword(users.SetPasswordRequest(current_password=PASSWORD, new_password=new))
    assert (await problem(roles(quota, other.secret))).reason is Reason.TOKEN_REVOKED
    await roles(quota, ada.secret)
    assert (await problem(sign_in(quota, ada.email, PASSWORD))).reason is Reason.PASSWORD_WRONG
    await sign_in(quota, ada.email, new)
    # A token of less scope changes no password.
    asked = quota_pb2.CreateTokenRequest(scope=token_pb2.SCOPE_WRITE)
    asked.ttl.FromSeconds(40 * 86400)
    lesser = await (await quota.identity(ada.secret)).CreateToken(asked)
    refused = (await quota.people(lesser.secret)).SetPassword(wrong)
    assert (await problem(refused)).reason is Reason.SCOPE_TOO_LOW


async def test_the_first_admin_sets_a_password_by_a_link_of_its_own(quota: Quota) -> None:
    people, door = await quota.people(), await quota.door()
    asked = users.CreateInvitationRequest(parent="teams/main", user="users/me", email="boss@lab.example")
    made = await people.CreateInvitation(asked)
    session = await door.AcceptInvitation(
        users.AcceptInvitationRequest(secret=made.secret, password=PASSWORD)
    )
    assert (session.user.name, session.user.email) == ("users/admin", "boss@lab.example")
    assert (await sign_in(quota, "boss@lab.example", PASSWORD)).user.name == "users/admin"
    # Without an address whoever comes by the link says it; the latest link is the only one that is good.
    await quota.db.execute("UPDATE users SET email = NULL, password_hash = NULL WHERE id = 'admin'")
    links = [
        (
            await people.CreateInvitation(users.CreateInvitationRequest(parent="teams/main", user="users/me"))
        ).secret
        for _ in range(2)
    ]
    use = [
        users.AcceptInvitationRequest(secret=one, password=PASSWORD, email="chief@lab.example")
        for one in links
    ]
    assert (await problem(door.AcceptInvitation(use[0]))).reason is Reason.INVITATION_INVALID
    assert (await door.AcceptInvitation(use[1])).user.email == "chief@lab.example"
    # An admin of the organisation who is no owner gives nobody such a link.
    admin = await person(quota, "main", ADMIN)
    call = (await quota.people(admin.secret)).CreateInvitation(
        users.CreateInvitationRequest(parent="teams/main", user="users/admin")
    )
    assert (await problem(call)).reason is Reason.ROLE_TOO_LOW


async def test_what_was_done_is_noted_with_who_and_from_where_and_stays(quota: Quota) -> None:
    team = await quota.team()
    secret = await link(quota, team, MEMBER, email="noted@lab.example")
    ada = await come_in(quota, secret)
    metadata = (("x-client-address", "192.0.2.7"), ("x-request-id", "request-7"))
    await (await quota.people()).UpdateMembership(update(team, ada.id, VIEWER), metadata=metadata)
    rows = await quota.db.fetch(
        "SELECT action, actor, request_id, address, peer, resource, detail FROM audit_entries WHERE team = $1"
        " ORDER BY seq",
        team,
    )
    assert [row["action"] for row in rows] == [
        "team.created",
        "invitation.created",
        "member.added",
        "invitation.accepted",
        "member.updated",
    ]
    last = rows[-1]
    assert (last["actor"], last["request_id"], last["address"]) == ("users/admin", "request-7", "192.0.2.7")
    assert last["peer"] in ("127.0.0.1", "::1")
    assert last["resource"] == f"teams/{team}/members/{ada.id}"
    everything = str(await quota.db.fetch("SELECT * FROM audit_entries"))
    assert not any(word in everything for word in (secret, ada.secret, PASSWORD, "argon2"))
    for statement in (
        "UPDATE audit_entries SET actor = 'users/eve'",
        "DELETE FROM audit_entries",
        "TRUNCATE audit_entries",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await quota.db.execute(statement)


async def test_junk_is_a_mistake_of_the_caller(quota: Quota) -> None:
    people, door = await quota.people(), await quota.door()
    calls = [
        people.GetUser(users.GetUserRequest(name="users/../admin")),
        people.UpdateMembership(update("main", "admin'; --", MEMBER)),
        people.UpdateMembership(update("main", "admin", token_pb2.ROLE_SERVICE)),
        people.CreateInvitation(users.CreateInvitationRequest(parent="teams/main", email="x", role=MEMBER)),
        door.CreateSession(users.CreateSessionRequest(email="a\0@lab.example", password="\0")),
        door.AcceptInvitation(users.AcceptInvitationRequest(secret=new_token(), password="x")),
    ]
    codes = {(await problem(call)).code.name for call in calls}
    assert codes <= {"INVALID_ARGUMENT", "UNAUTHENTICATED", "NOT_FOUND"}


async def test_a_command_line_is_let_in_by_somebody_who_is_in_once(quota: Quota, clock: FakeClock) -> None:
    ada = await person(quota, await quota.team(), MEMBER)
    door, people = await quota.door(), await quota.people(ada.secret)
    asked = await door.CreateDeviceLogin(users.CreateDeviceLoginRequest(client="cairn on laptop"))
    finish = users.FinishDeviceLoginRequest(secret=asked.secret)
    assert (await problem(door.FinishDeviceLogin(finish))).reason is Reason.LOGIN_PENDING
    seen = await people.GetDeviceLogin(users.GetDeviceLoginRequest(name=asked.login.name))
    assert (seen.client, seen.approved) == ("cairn on laptop", False)
    approve = users.ApproveDeviceLoginRequest(name=asked.login.name)
    assert (await people.ApproveDeviceLogin(approve)).approved
    assert (await problem(people.ApproveDeviceLogin(approve))).reason is Reason.LOGIN_NOT_FOUND
    session = await door.FinishDeviceLogin(finish)
    assert session.user.name == f"users/{ada.id}"
    assert session.token.expire_time.ToDatetime() - session.token.create_time.ToDatetime() == timedelta(
        days=30
    )
    assert await roles(quota, session.secret) == await roles(quota, ada.secret)
    assert (await problem(door.FinishDeviceLogin(finish))).reason is Reason.LOGIN_NOT_FOUND
    # It lasts no longer than the token that it was confirmed with, and waits for ten minutes.
    brief = quota_pb2.CreateTokenRequest(scope=token_pb2.SCOPE_ADMIN)
    brief.ttl.FromSeconds(3600)
    token = await (await quota.identity(ada.secret)).CreateToken(brief)
    asked = await door.CreateDeviceLogin(users.CreateDeviceLoginRequest())
    approve = users.ApproveDeviceLoginRequest(name=asked.login.name)
    await (await quota.people(token.secret)).ApproveDeviceLogin(approve)
    session = await door.FinishDeviceLogin(users.FinishDeviceLoginRequest(secret=asked.secret))
    assert session.token.expire_time == token.token.expire_time
    endless = quota_pb2.CreateTokenRequest(scope=token_pb2.SCOPE_ADMIN)
    refused = (await quota.identity(session.secret)).CreateToken(endless)
    assert (await problem(refused)).metadata["field"] == "ttl"
    late = await door.CreateDeviceLogin(users.CreateDeviceLoginRequest())
    clock.advance(timedelta(minutes=11).total_seconds())
    approve = users.ApproveDeviceLoginRequest(name=late.login.name)
    assert (await problem(people.ApproveDeviceLogin(approve))).reason is Reason.LOGIN_NOT_FOUND
    lesser = await create_token(quota, ada.secret, token_pb2.SCOPE_WRITE)
    refused = (await quota.people(lesser)).ApproveDeviceLogin(approve)
    assert (await problem(refused)).reason is Reason.SCOPE_TOO_LOW


async def create_token(quota: Quota, secret: str, scope: Any) -> str:
    asked = quota_pb2.CreateTokenRequest(scope=scope)
    return (await (await quota.identity(secret)).CreateToken(asked)).secret


async def test_codes_are_not_guessed(quota: Quota) -> None:
    people = await quota.people((await person(quota, await quota.team(), MEMBER)).secret)
    asked = users.GetDeviceLoginRequest(name="deviceLogins/BBBB-BBBB")
    reasons = [(await problem(people.GetDeviceLogin(asked))).reason for _ in range(32)]
    assert reasons == [Reason.LOGIN_NOT_FOUND] * 30 + [Reason.RATE_EXCEEDED] * 2

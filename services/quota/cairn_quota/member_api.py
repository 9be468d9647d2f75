"""The part of UserService that is about memberships and service accounts."""

from __future__ import annotations

from dataclasses import dataclass

from cairn.quota.v1 import membership_pb2, quota_pb2, token_pb2, user_pb2, user_service_pb2
from cairn.quota.v1.user_service_pb2_grpc import UserServiceServicer
from cairn_common.auth import Role, hash_token, new_token, require
from cairn_common.clock import Clock
from cairn_common.errors import NotFound
from cairn_common.ids import check_id, new_uid
from cairn_common.once import Once
from cairn_common.paging import page_size
from cairn_common.rpc import caller
from cairn_quota import checks, people_wire, user_checks, wire
from cairn_quota.member_store import MemberStore
from cairn_quota.model import NewToken, Scope, Token
from cairn_quota.people import UserKind, check_email
from cairn_quota.sight import Sight, after, next_token, team_of
from cairn_quota.user_store import UserStore, new_user, user_not_found


@dataclass(frozen=True)
class MemberCalls(UserServiceServicer):
    """Who is what in which team."""

    users: UserStore
    members: MemberStore
    sight: Sight
    once: Once
    clock: Clock

    async def ListMemberships(
        self, request: user_service_pb2.ListMembershipsRequest, context: object
    ) -> user_service_pb2.ListMembershipsResponse:
        """Who is what in a team."""
        team = team_of(request.parent, Role.VIEWER)
        scope, size = f"members/{team}", page_size(request.page_size)
        found = await self.members.members(team, after=after(request.page_token, scope=scope), size=size + 1)
        return user_service_pb2.ListMembershipsResponse(
            memberships=[people_wire.membership_message(one) for one in found[:size]],
            next_page_token=next_token(found[size - 1].subject, scope=scope) if len(found) > size else "",
        )

    async def CreateMembership(
        self, request: user_service_pb2.CreateMembershipRequest, context: object
    ) -> membership_pb2.Membership:
        """Somebody whom one can see becomes a member."""
        team = team_of(request.parent, Role.ADMIN)
        return await self.once(request, membership_pb2.Membership, lambda: self._add_member(team, request))

    async def _add_member(
        self, team: str, request: user_service_pb2.CreateMembershipRequest
    ) -> membership_pb2.Membership:
        who = caller()
        role = user_checks.role(request.role)
        if "@" in request.user:
            known = await self.users.by_email(check_email(request.user, "user"))
            wanted = known[0].id if known is not None else request.user
        else:
            wanted = user_checks.user(request.user)
        try:
            user = await self.sight(wanted, who)
        except NotFound:
            # By the name that was asked for: whether an address has an account elsewhere is not told.
            raise user_not_found(request.user) from None
        if user.kind is UserKind.SERVICE_ACCOUNT:
            raise user_not_found(wanted)
        made = await self.members.add(team, user, role, actor=who.subject, now=self.clock.now())
        return people_wire.membership_message(made)

    async def UpdateMembership(
        self, request: user_service_pb2.UpdateMembershipRequest, context: object
    ) -> membership_pb2.Membership:
        """Another role."""
        team, user = user_checks.member(request.name)
        require(caller(), team, Role.ADMIN)
        role = user_checks.role(request.role)
        changed = await self.members.change(team, user, role, actor=caller().subject, now=self.clock.now())
        return people_wire.membership_message(changed)

    async def DeleteMembership(
        self, request: user_service_pb2.DeleteMembershipRequest, context: object
    ) -> user_service_pb2.DeleteMembershipResponse:
        """Out of the team."""
        team, user = user_checks.member(request.name)
        who = caller()
        require(who, team, Role.VIEWER if who.subject == f"users/{user}" else Role.ADMIN)
        removed = await self.members.remove(team, user, actor=who.subject, now=self.clock.now())
        return user_service_pb2.DeleteMembershipResponse(tokens_revoked=removed.tokens_revoked)

    async def CreateServiceAccount(
        self, request: user_service_pb2.CreateServiceAccountRequest, context: object
    ) -> user_pb2.User:
        """Somebody for programs to be."""
        team = team_of(request.parent, Role.ADMIN)
        return await self.once(request, user_pb2.User, lambda: self._add_account(team, request))

    async def _add_account(
        self, team: str, request: user_service_pb2.CreateServiceAccountRequest
    ) -> user_pb2.User:
        now = self.clock.now()
        account = new_user(
            f"{check_id(request.account_id, 'account_id')}.{team}",
            now=now,
            display_name=checks.text(request.display_name, "display_name"),
            kind=UserKind.SERVICE_ACCOUNT,
            team=team,
        )
        role = user_checks.role(request.role)
        made = await self.members.add_account(team, account, role, actor=caller().subject, now=now)
        return people_wire.user_message(made)

    async def CreateAccountToken(
        self, request: user_service_pb2.CreateAccountTokenRequest, context: object
    ) -> quota_pb2.CreateTokenResponse:
        """A token for a program."""
        team, user = user_checks.member(request.name)
        require(caller(), team, Role.ADMIN)
        return await self.once(
            request, quota_pb2.CreateTokenResponse, lambda: self._add_account_token(team, user, request)
        )

    async def _add_account_token(
        self, team: str, user: str, request: user_service_pb2.CreateAccountTokenRequest
    ) -> quota_pb2.CreateTokenResponse:
        if request.scope not in (token_pb2.SCOPE_READ, token_pb2.SCOPE_WRITE):
            raise checks.invalid("scope", "must be SCOPE_READ or SCOPE_WRITE: programs make nobody a member")
        now = self.clock.now()
        token = Token(
            uid=new_uid(),
            display_name=checks.text(request.display_name, "display_name"),
            subject=f"users/{user}",
            scope=Scope(request.scope),
            team="",
            run_uid="",
            attempt_uid="",
            create_time=now,
            expire_time=now + checks.ttl(request.ttl) if request.HasField("ttl") else None,
            revoke_time=None,
        )
        actor, secret = caller().subject, new_token("cairn")
        new = NewToken(token=token, hash=hash_token(secret), creator=actor, request_id="")
        await self.members.add_account_token(team, user, new, actor=actor)
        return quota_pb2.CreateTokenResponse(token=wire.token_message(token), secret=secret)

    async def DisableServiceAccount(
        self, request: user_service_pb2.DisableServiceAccountRequest, context: object
    ) -> user_pb2.User:
        """The end of a program's ways in."""
        team, user = user_checks.member(request.name)
        require(caller(), team, Role.ADMIN)
        await self.members.remove(team, user, actor=caller().subject, now=self.clock.now(), account=True)
        found = await self.users.user(user)
        assert found is not None, "a service account stays as a user"
        return people_wire.user_message(found)

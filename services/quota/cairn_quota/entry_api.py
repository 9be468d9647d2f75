"""The part of UserService that lets people in: invitations, and sessions by password."""

from __future__ import annotations

from dataclasses import dataclass, replace

from cairn.quota.v1 import invitation_pb2, user_service_pb2
from cairn.quota.v1.user_service_pb2_grpc import UserServiceServicer
from cairn_common.auth import Role, new_token, require
from cairn_common.clock import Clock
from cairn_common.ids import check_id, new_uid, parse_name
from cairn_common.once import Once
from cairn_common.paging import page_size
from cairn_common.rpc import caller
from cairn_quota import checks, people_wire, user_checks
from cairn_quota.bootstrap import TEAM as FIRST_TEAM
from cairn_quota.invitation_store import Acceptance, InvitationStore, invitation_invalid
from cairn_quota.model import Role as TeamRole
from cairn_quota.people import (
    Invitation,
    InvitationState,
    User,
    UserKind,
    check_email,
    check_password,
    id_of,
)
from cairn_quota.sight import Sight, after, next_token, require_organisation, self_of, team_of
from cairn_quota.sign_in import SignIn, new_session
from cairn_quota.user_store import UserStore, new_user


@dataclass(frozen=True)
class EntryCalls(UserServiceServicer):
    """How people get in."""

    users: UserStore
    invitations: InvitationStore
    sign_in: SignIn
    sight: Sight
    once: Once
    clock: Clock

    async def CreateInvitation(
        self, request: user_service_pb2.CreateInvitationRequest, context: object
    ) -> user_service_pb2.CreateInvitationResponse:
        """A link for one person."""
        team = team_of(request.parent, Role.ADMIN)
        return await self.once(
            request, user_service_pb2.CreateInvitationResponse, lambda: self._invite(team, request)
        )

    async def _invite(
        self, team: str, request: user_service_pb2.CreateInvitationRequest
    ) -> user_service_pb2.CreateInvitationResponse:
        now = self.clock.now()
        role: TeamRole | None = None
        if request.user:
            email, subject = await self._password_link(team, request)
        else:
            email, subject, role = check_email(request.email), "", user_checks.role(request.role)
        life = user_checks.life(request, usual=user_checks.INVITATION, longest=user_checks.LONGEST_INVITATION)
        invitation = Invitation(
            uid=new_uid(),
            team=team,
            email=email,
            role=role,
            subject=subject,
            creator=caller().subject,
            create_time=now,
            expire_time=now + life,
        )
        secret = new_token("cairn_invite")
        await self.invitations.create(invitation, secret=secret)
        return user_service_pb2.CreateInvitationResponse(
            invitation=people_wire.invitation_message(invitation, now=now), secret=secret
        )

    async def ListInvitations(
        self, request: user_service_pb2.ListInvitationsRequest, context: object
    ) -> user_service_pb2.ListInvitationsResponse:
        """A team's, newest first."""
        team, now = team_of(request.parent, Role.ADMIN), self.clock.now()
        scope, size = f"invitations/{team}", page_size(request.page_size)
        found = await self.invitations.invitations(
            team, before=after(request.page_token, scope=scope) or None, size=size + 1
        )
        return user_service_pb2.ListInvitationsResponse(
            invitations=[people_wire.invitation_message(one, now=now) for one in found[:size]],
            next_page_token=next_token(found[size - 1].uid, scope=scope) if len(found) > size else "",
        )

    async def RevokeInvitation(
        self, request: user_service_pb2.RevokeInvitationRequest, context: object
    ) -> invitation_pb2.Invitation:
        """The link opens nothing any more."""
        name = parse_name("teams/{team}/invitations/{invitation}", request.name)
        require(caller(), name["team"], Role.ADMIN)
        now = self.clock.now()
        revoked = await self.invitations.revoke(
            name["team"], name["invitation"], actor=caller().subject, now=now
        )
        return people_wire.invitation_message(revoked, now=now)

    async def AcceptInvitation(
        self, request: user_service_pb2.AcceptInvitationRequest, context: object
    ) -> user_service_pb2.Session:
        """Whoever brings the link is let in."""
        now = self.clock.now()
        found = await self.invitations.find(request.secret)
        if found is None or found.state(now) is not InvitationState.PENDING:
            raise invitation_invalid()
        life = user_checks.life(request, usual=user_checks.SESSION, longest=user_checks.LONGEST_SESSION)
        user, is_new, hashed = await self._whom(found, request)
        session, secret = new_session(user.subject, life=life, now=now)
        user = await self.invitations.accept(Acceptance(found, user, is_new, hashed, session, now))
        return people_wire.session_message(session, user, secret)

    async def CreateSession(
        self, request: user_service_pb2.CreateSessionRequest, context: object
    ) -> user_service_pb2.Session:
        """Whoever knows the password is let in."""
        life = user_checks.life(request, usual=user_checks.SESSION, longest=user_checks.LONGEST_SESSION)
        email = check_email(request.email)
        user = await self.sign_in.check(email, request.password)
        session, secret = new_session(user.subject, life=life, now=self.clock.now())
        await self.users.begin_session(session)
        return people_wire.session_message(session, user, secret)

    async def _password_link(
        self, team: str, request: user_service_pb2.CreateInvitationRequest
    ) -> tuple[str, str]:
        """The address and the subject of a link that sets somebody's password."""
        who = caller()
        if team != FIRST_TEAM or request.role:
            raise checks.invalid("user", f"goes with the team {FIRST_TEAM} and without a role")
        user = await self.sight(
            self_of(who) if request.user == "users/me" else user_checks.user(request.user), who
        )
        if user.kind is not UserKind.PERSON:
            raise checks.invalid("user", "is a service account, which has no password")
        if user.subject != who.subject or user.has_password:
            require_organisation(who, Role.OWNER)
        email = user.email or (check_email(request.email) if request.email else "")
        return email, user.subject

    async def _whom(
        self, invitation: Invitation, request: user_service_pb2.AcceptInvitationRequest
    ) -> tuple[User, bool, str | None]:
        """Who comes in by an invitation, whether they are new, and what is to be stored of the password."""
        passwords = self.sign_in.passwords
        if invitation.role is None:
            found = await self.users.user(invitation.subject.removeprefix("users/"))
            if found is None:
                raise invitation_invalid()
            email = found.email or invitation.email or check_email(request.email)
            password = check_password(request.password, email=email)
            return replace(found, email=email), False, await passwords.hash(password)
        if await self.users.by_email(invitation.email) is not None:
            return await self.sign_in.check(invitation.email, request.password), False, None
        password = check_password(request.password, email=invitation.email)
        id = check_id(request.user_id, "user_id") if request.user_id else id_of(invitation.email)
        user = new_user(
            id,
            now=self.clock.now(),
            email=invitation.email,
            display_name=checks.text(request.display_name, "display_name"),
        )
        return user, True, await passwords.hash(password)

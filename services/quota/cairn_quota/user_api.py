"""UserService: people and programs, what they are in teams, and how they get in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from cairn.quota.v1 import user_pb2, user_service_pb2
from cairn.quota.v1.user_service_pb2_grpc import UserServiceServicer
from cairn_common.auth import Access, Role, Scope, access
from cairn_common.clock import Clock
from cairn_common.db import Database
from cairn_common.errors import FailedPrecondition, PermissionDenied, Reason, Unauthenticated
from cairn_common.once import Once
from cairn_common.paging import page_size
from cairn_common.rpc import caller
from cairn_quota import people_wire, user_checks
from cairn_quota.bootstrap import TEAM as FIRST_TEAM
from cairn_quota.device_api import DeviceCalls
from cairn_quota.device_store import DeviceStore
from cairn_quota.entry_api import EntryCalls
from cairn_quota.invitation_store import InvitationStore
from cairn_quota.loopback_api import LoopbackCalls
from cairn_quota.member_api import MemberCalls
from cairn_quota.member_store import MemberStore
from cairn_quota.oidc import Party
from cairn_quota.oidc_api import OidcCalls, SignOn
from cairn_quota.passwords import Passwords
from cairn_quota.people import UserKind, UserState, check_password
from cairn_quota.sight import Sight, after, next_token, require_organisation, self_of
from cairn_quota.sign_in import SignIn
from cairn_quota.user_store import UserStore

USERS = "cairn.quota.v1.UserService"
USER_ACCESS: Mapping[str, Access] = MappingProxyType(
    {
        f"/{USERS}/GetUser": access(Role.NONE),
        f"/{USERS}/ListUsers": access(Role.ADMIN),
        f"/{USERS}/DisableUser": access(Role.ADMIN),
        f"/{USERS}/EnableUser": access(Role.ADMIN),
        f"/{USERS}/SetPassword": access(Role.NONE, scope=Scope.ADMIN),
        f"/{USERS}/ListMemberships": access(Role.VIEWER),
        f"/{USERS}/CreateMembership": access(Role.ADMIN),
        f"/{USERS}/UpdateMembership": access(Role.ADMIN),
        # One may leave by oneself.
        f"/{USERS}/DeleteMembership": access(Role.VIEWER, scope=Scope.ADMIN),
        f"/{USERS}/CreateInvitation": access(Role.ADMIN),
        f"/{USERS}/ListInvitations": access(Role.ADMIN),
        f"/{USERS}/RevokeInvitation": access(Role.ADMIN),
        f"/{USERS}/AcceptInvitation": access(Role.SERVICE),
        f"/{USERS}/CreateSession": access(Role.SERVICE),
        f"/{USERS}/GetSignInWays": access(Role.SERVICE),
        f"/{USERS}/CreateOidcLogin": access(Role.SERVICE),
        f"/{USERS}/FinishOidcLogin": access(Role.SERVICE),
        f"/{USERS}/ConfirmOidcLogin": access(Role.SERVICE),
        f"/{USERS}/CreateDeviceLogin": access(Role.SERVICE),
        f"/{USERS}/GetDeviceLogin": access(Role.NONE),
        f"/{USERS}/ApproveDeviceLogin": access(Role.NONE, scope=Scope.ADMIN),
        f"/{USERS}/FinishDeviceLogin": access(Role.SERVICE),
        f"/{USERS}/CreateLoopbackLogin": access(Role.NONE, scope=Scope.ADMIN),
        f"/{USERS}/FinishLoopbackLogin": access(Role.SERVICE),
        f"/{USERS}/CreateServiceAccount": access(Role.ADMIN),
        f"/{USERS}/CreateAccountToken": access(Role.ADMIN),
        f"/{USERS}/DisableServiceAccount": access(Role.ADMIN),
    }
)


@dataclass(frozen=True)
class UserCalls(UserServiceServicer):
    """Who there is."""

    users: UserStore
    sign_in: SignIn
    sight: Sight
    clock: Clock

    async def GetUser(self, request: user_service_pb2.GetUserRequest, context: object) -> user_pb2.User:
        """Oneself, or somebody whom one can see."""
        who = caller()
        if request.name == "users/me":
            return people_wire.user_message(await self.sight(self_of(who), who))
        return people_wire.user_message(await self.sight(user_checks.user(request.name), who))

    async def ListUsers(
        self, request: user_service_pb2.ListUsersRequest, context: object
    ) -> user_service_pb2.ListUsersResponse:
        """Everybody, for admins of the organisation."""
        require_organisation(caller(), Role.ADMIN)
        size = page_size(request.page_size)
        found = await self.users.users(after=after(request.page_token, scope="users"), size=size + 1)
        return user_service_pb2.ListUsersResponse(
            users=[people_wire.user_message(one) for one in found[:size]],
            next_page_token=next_token(found[size - 1].id, scope="users") if len(found) > size else "",
        )

    async def DisableUser(
        self, request: user_service_pb2.DisableUserRequest, context: object
    ) -> user_pb2.User:
        """Nobody comes in as this user any more."""
        return await self._set_state(request.name, UserState.DISABLED)

    async def EnableUser(self, request: user_service_pb2.EnableUserRequest, context: object) -> user_pb2.User:
        """Comes in again, with new tokens."""
        return await self._set_state(request.name, UserState.ACTIVE)

    async def SetPassword(
        self, request: user_service_pb2.SetPasswordRequest, context: object
    ) -> user_pb2.User:
        """One's own password, by the present one."""
        who = caller()
        user = await self.sight(self_of(who), who)
        if user.kind is not UserKind.PERSON:
            raise FailedPrecondition("A service account has no password; make tokens for it.")
        password = check_password(request.new_password, email=user.email)
        stored = await self.users.password_hash(user.id)
        if stored is not None:
            await self.sign_in.count(user.email or user.id)
            if not await self.sign_in.passwords.matches(stored, request.current_password):
                raise Unauthenticated("The present password is another one.", reason=Reason.PASSWORD_WRONG)
        changed = await self.users.set_password(
            user.id,
            await self.sign_in.passwords.hash(password),
            keep=who.token_uid,
            actor=who.subject,
            now=self.clock.now(),
        )
        return people_wire.user_message(changed)

    async def _set_state(self, name: str, state: UserState) -> user_pb2.User:
        who, user = caller(), user_checks.user(name)
        require_organisation(who, Role.ADMIN)
        subject = f"users/{user}"
        if who.subject == subject:
            raise PermissionDenied("Nobody disables or enables themselves; ask another admin.")
        theirs = await self.users.role(subject, FIRST_TEAM)
        if theirs is not None and not who.may(FIRST_TEAM, Role(theirs)):
            require_organisation(who, Role(theirs))
        changed = await self.users.set_state(user, state, actor=who.subject, now=self.clock.now())
        return people_wire.user_message(changed)


class UserApi(UserCalls, MemberCalls, EntryCalls, OidcCalls, DeviceCalls, LoopbackCalls):
    """The whole UserService, over one database. `party` None: without single sign-on."""

    def __init__(self, db: Database, passwords: Passwords, clock: Clock, party: Party | None = None) -> None:
        users = UserStore(db)
        sight, sign_in, once = Sight(users), SignIn(users, passwords, clock), Once(db, clock)
        UserCalls.__init__(self, users, sign_in, sight, clock)
        MemberCalls.__init__(self, users, MemberStore(db), sight, once, clock)
        EntryCalls.__init__(self, users, InvitationStore(db), sign_in, sight, once, clock)
        sign_on = SignOn.over(db, party, clock) if party is not None else None
        OidcCalls.__init__(self, users, sign_on, sign_in, clock)
        DeviceCalls.__init__(self, users, DeviceStore(db), clock)
        LoopbackCalls.__init__(self, users, db, clock)

"""The part of UserService that lets people in by single sign-on."""

from __future__ import annotations

from dataclasses import dataclass

from cairn.quota.v1 import user_service_pb2
from cairn.quota.v1.user_service_pb2_grpc import UserServiceServicer
from cairn_common.auth import new_token
from cairn_common.clock import Clock
from cairn_common.db import Database
from cairn_common.errors import FailedPrecondition, Reason
from cairn_common.rpc import origin
from cairn_quota import oidc, people_wire, user_checks, wire
from cairn_quota.oidc import Party, Proven
from cairn_quota.oidc_provider import Provider
from cairn_quota.oidc_store import Entry, OidcStore
from cairn_quota.sign_in import SignIn, attempts_under, count_tries, neighbourhood, new_session
from cairn_quota.user_store import Tries, UserStore

MOST_OF_ADDRESS = 60
"""Of each leg; who comes in is not counted, so that a lab behind one address does not lock itself out."""
_MOST_TEXT = 4096
_THERE, _BACK = "oidc", "oidc back"


@dataclass(frozen=True)
class SignOn:
    """What single sign-on needs."""

    party: Party
    provider: Provider
    store: OidcStore

    @classmethod
    def over(cls, db: Database, party: Party, clock: Clock) -> SignOn:
        """All of it, over one database."""
        return cls(party, Provider(party, clock), OidcStore(db, party))


@dataclass(frozen=True)
class OidcCalls(UserServiceServicer):
    """Browsers that go to the provider and come back. `sign_on` None: it is off."""

    users: UserStore
    sign_on: SignOn | None
    sign_in: SignIn
    clock: Clock

    async def GetSignInWays(
        self, request: user_service_pb2.GetSignInWaysRequest, context: object
    ) -> user_service_pb2.SignInWays:
        """By what people come in."""
        return user_service_pb2.SignInWays(single_sign_on=self.sign_on.party.button if self.sign_on else "")

    async def CreateOidcLogin(
        self, request: user_service_pb2.CreateOidcLoginRequest, context: object
    ) -> user_service_pb2.CreateOidcLoginResponse:
        """A browser goes to the provider."""
        sign_on = self._on()
        path = oidc.return_path(request.return_path)
        await self._count_leg(_THERE)
        state, binding = new_token("cairn_state"), new_token("cairn_binding")
        url = await sign_on.provider.begin(state=state, binding=binding)
        end = await sign_on.store.begin(state=state, binding=binding, return_path=path, now=self.clock.now())
        return user_service_pb2.CreateOidcLoginResponse(
            url=url, binding=binding, expire_time=wire.timestamp(end)
        )

    async def FinishOidcLogin(
        self, request: user_service_pb2.FinishOidcLoginRequest, context: object
    ) -> user_service_pb2.OidcSession:
        """It is back, with a code."""
        sign_on = self._on()
        await self._count_leg(_BACK)
        if max(map(len, (request.state, request.code, request.issuer, request.binding))) > _MOST_TEXT:
            raise oidc.refused()
        path = await sign_on.store.take(state=request.state, binding=request.binding, now=self.clock.now())
        proven = await sign_on.provider.proven(
            code=request.code, state=request.state, binding=request.binding, issuer=request.issuer
        )
        oidc.check_domain(proven, sign_on.party)
        try:
            return await self._enter(sign_on, proven, request, path)
        except FailedPrecondition as error:
            if error.reason is Reason.PASSWORD_NEEDED:
                await sign_on.store.keep_proof(
                    proven, binding=request.binding, return_path=path, now=self.clock.now()
                )
            raise

    async def ConfirmOidcLogin(
        self, request: user_service_pb2.ConfirmOidcLoginRequest, context: object
    ) -> user_service_pb2.OidcSession:
        """The person has the password, too."""
        sign_on = self._on()
        proven, path = await sign_on.store.proof(binding=request.binding, now=self.clock.now())
        user = await self.sign_in.check(proven.email, request.password)
        return await self._enter(sign_on, proven, request, path, confirmed=user.id)

    async def _enter(
        self,
        sign_on: SignOn,
        proven: Proven,
        request: user_service_pb2.FinishOidcLoginRequest | user_service_pb2.ConfirmOidcLoginRequest,
        path: str,
        *,
        confirmed: str = "",
    ) -> user_service_pb2.OidcSession:
        now = self.clock.now()
        life = user_checks.life(request, usual=user_checks.SESSION, longest=user_checks.LONGEST_SESSION)
        # Whose it is, is known once they are let in.
        begun, secret = new_session("", life=life, now=now)
        user, session = await sign_on.store.let_in(Entry(proven, begun, now, confirmed))
        await self.users.forgive(last=[_tries(_THERE), _tries(_BACK)], ended=[])
        return user_service_pb2.OidcSession(
            session=people_wire.session_message(session, user, secret), return_path=path
        )

    def _on(self) -> SignOn:
        if self.sign_on is None:
            raise FailedPrecondition(
                "Single sign-on is not set up here (CAIRN_OIDC_ISSUER).", reason=Reason.SIGN_ON_OFF
            )
        return self.sign_on

    async def _count_leg(self, what: str) -> None:
        await count_tries(self.users, _tries(what), now=self.clock.now())


def _tries(what: str) -> Tries:
    return attempts_under(what, neighbourhood(origin().address), most=MOST_OF_ADDRESS)

"""The part of UserService by which a command line is let in by a browser on the same machine."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from cairn.quota.v1 import user_service_pb2
from cairn.quota.v1.user_service_pb2_grpc import UserServiceServicer
from cairn_common.auth import hash_token, new_token
from cairn_common.clock import Clock
from cairn_common.db import Database
from cairn_common.errors import Reason, Unauthenticated
from cairn_common.rpc import caller, origin
from cairn_quota import audit, checks, loopback, people_wire, user_checks, wire
from cairn_quota.device_api import MOST_LOOKS, MOST_OF_ADDRESS, session_in_place_of
from cairn_quota.sight import self_of
from cairn_quota.sign_in import attempts_under, count_tries, neighbourhood
from cairn_quota.user_store import UserStore, insert_session

LIFE = timedelta(minutes=5)


@dataclass(frozen=True)
class LoopbackCalls(UserServiceServicer):
    """Command lines that listen for the browser that they have opened."""

    users: UserStore
    db: Database
    clock: Clock

    async def CreateLoopbackLogin(
        self, request: user_service_pb2.CreateLoopbackLoginRequest, context: object
    ) -> user_service_pb2.CreateLoopbackLoginResponse:
        """The person has said yes: a code for the one that listens there."""
        who, now = caller(), self.clock.now()
        subject = f"users/{self_of(who)}"
        redirect, state = loopback.redirect_uri(request.redirect_uri), loopback.state(request.state)
        challenge = loopback.challenge(request.code_challenge)
        client = checks.text(request.client, "client", most=80)
        await count_tries(self.users, attempts_under("loopback", subject, most=MOST_LOOKS), now=now)
        code, end = new_token("cairn_code"), now + LIFE
        async with self.db.transaction() as conn:
            await conn.execute("DELETE FROM loopback_logins WHERE expire_time <= $1", now)
            await conn.execute(
                "INSERT INTO loopback_logins (hash, subject, challenge, redirect_uri, latest, expire_time)"
                " VALUES ($1, $2, $3, $4, $5, $6)",
                hash_token(code), subject, challenge, redirect, None if who.session else who.expire_time, end,
            )  # fmt: skip
            await audit.record(
                conn, "login.approved", actor=subject, now=now, resource=redirect, client=client
            )
        return user_service_pb2.CreateLoopbackLoginResponse(
            url=loopback.url(redirect, code=code, state=state), expire_time=wire.timestamp(end)
        )

    async def FinishLoopbackLogin(
        self, request: user_service_pb2.FinishLoopbackLoginRequest, context: object
    ) -> user_service_pb2.Session:
        """It is in. The code is used up, whatever comes of it."""
        longest, now = user_checks.LONGEST_SESSION, self.clock.now()
        here = neighbourhood(origin().address)
        await count_tries(self.users, attempts_under("loopback back", here, most=MOST_OF_ADDRESS), now=now)
        life = user_checks.life(request, usual=longest, longest=longest)
        row = await self.db.fetchrow(
            "DELETE FROM loopback_logins WHERE hash = $1 RETURNING subject, challenge, redirect_uri, latest,"
            " expire_time",
            hash_token(request.code),
        )
        if (
            row is None
            or row["expire_time"] <= now
            or row["redirect_uri"] != request.redirect_uri
            or not loopback.proves(request.code_verifier, row["challenge"])
        ):
            raise Unauthenticated(
                "This login is over, was used, or was begun by somebody else. Begin again.",
                reason=Reason.LOGIN_REFUSED,
            )
        made = await session_in_place_of(self.users, row["subject"], life=life, latest=row["latest"], now=now)
        async with self.db.transaction() as conn:
            await insert_session(conn, made.session, how="loopback")
        return people_wire.session_message(made.session, made.user, made.secret)

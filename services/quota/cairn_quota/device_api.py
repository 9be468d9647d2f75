"""The part of UserService by which a command line is let in, by somebody who is in by a browser."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from cairn.quota.v1 import device_login_pb2, user_service_pb2
from cairn.quota.v1.user_service_pb2_grpc import UserServiceServicer
from cairn_common.auth import hash_token, new_token
from cairn_common.clock import Clock
from cairn_common.rpc import caller, origin
from cairn_quota import checks, people_wire, user_checks, wire
from cairn_quota.device_store import LIFE, DeviceLogin, DeviceStore, login_not_found
from cairn_quota.model import NewToken
from cairn_quota.people import User, UserState
from cairn_quota.sight import self_of
from cairn_quota.sign_in import attempts_under, count_tries, neighbourhood, new_session
from cairn_quota.user_store import UserStore, user_not_found

ALPHABET = "BCDFGHJKLMNPQRSTVWXZ"
"""No vowels, so no words; nothing that looks like something else."""
MOST_OF_ADDRESS = 60
MOST_LOOKS = 30
_CODE = re.compile(rf"deviceLogins/([{ALPHABET}]{{4}}-[{ALPHABET}]{{4}})")


@dataclass(frozen=True)
class DeviceCalls(UserServiceServicer):
    """Command lines that wait to be let in."""

    users: UserStore
    devices: DeviceStore
    clock: Clock

    async def CreateDeviceLogin(
        self, request: user_service_pb2.CreateDeviceLoginRequest, context: object
    ) -> user_service_pb2.CreateDeviceLoginResponse:
        """A command line begins to wait."""
        await self._count("device", neighbourhood(origin().address), most=MOST_OF_ADDRESS)
        now = self.clock.now()
        code = "".join(secrets.choice(ALPHABET) for _ in range(8))
        login = DeviceLogin(
            code=f"{code[:4]}-{code[4:]}",
            client=checks.text(request.client, "client", most=80),
            address=origin().address,
            create_time=now,
            expire_time=now + LIFE,
        )
        secret = new_token("cairn_device")
        await self.devices.create(login, hash=hash_token(secret))
        return user_service_pb2.CreateDeviceLoginResponse(login=_message(login), secret=secret)

    async def GetDeviceLogin(
        self, request: user_service_pb2.GetDeviceLoginRequest, context: object
    ) -> device_login_pb2.DeviceLogin:
        """What the person looks at before they confirm it."""
        return _message(await self.devices.login(await self._code(request.name), now=self.clock.now()))

    async def ApproveDeviceLogin(
        self, request: user_service_pb2.ApproveDeviceLoginRequest, context: object
    ) -> device_login_pb2.DeviceLogin:
        """It may act as the caller."""
        who = caller()
        subject = f"users/{self_of(who)}"
        code = await self._code(request.name)
        latest = None if who.session else who.expire_time
        return _message(
            await self.devices.approve(code, subject=subject, latest=latest, now=self.clock.now())
        )

    async def FinishDeviceLogin(
        self, request: user_service_pb2.FinishDeviceLoginRequest, context: object
    ) -> user_service_pb2.Session:
        """The command line is in, once somebody has said so."""
        longest = user_checks.LONGEST_SESSION
        life, now = user_checks.life(request, usual=longest, longest=longest), self.clock.now()
        hashed = hash_token(request.secret)
        login = await self.devices.find(hashed, now=now)
        assert login.subject is not None, "find gives those that were confirmed"
        made = await session_in_place_of(self.users, login.subject, life=life, latest=login.latest, now=now)
        await self.devices.finish(hashed, made.session)
        return people_wire.session_message(made.session, made.user, made.secret)

    async def _code(self, name: str) -> str:
        await self._count("look", caller().subject, most=MOST_LOOKS)
        match = _CODE.fullmatch(name)
        if match is None:
            raise login_not_found("")
        return match[1]

    async def _count(self, *parts: str, most: int) -> None:
        await count_tries(self.users, attempts_under(*parts, most=most), now=self.clock.now())


@dataclass(frozen=True, slots=True)
class Opened:
    """A session that is not written yet."""

    session: NewToken
    user: User
    secret: str = field(repr=False)


async def session_in_place_of(
    users: UserStore, subject: str, *, life: timedelta, latest: datetime | None, now: datetime
) -> Opened:
    """For whom somebody has let in as `subject`, by what is good until `latest` (None: a session). Raises
    NotFound/USER_NOT_FOUND, also for a user who is disabled since."""
    user = await users.user(subject.removeprefix("users/"))
    if user is None or user.state is not UserState.ACTIVE:
        raise user_not_found(subject)
    if latest is not None:
        life = min(life, latest - now)
    session, secret = new_session(user.subject, life=life, now=now)
    if latest is not None:
        # It stands for the token that let it in, and may make nothing that outlives it.
        session = replace(session, token=replace(session.token, session=False))
    return Opened(session, user, secret)


def _message(login: DeviceLogin) -> device_login_pb2.DeviceLogin:
    return device_login_pb2.DeviceLogin(
        name=f"deviceLogins/{login.code}",
        code=login.code,
        client=login.client,
        address=login.address,
        create_time=wire.timestamp(login.create_time),
        expire_time=wire.timestamp(login.expire_time),
        approved=login.subject is not None,
    )

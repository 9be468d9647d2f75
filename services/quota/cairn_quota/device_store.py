"""All SQL about command lines that wait to be let in. Each public method is one transaction."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from cairn_common.db import Database, Row
from cairn_common.errors import FailedPrecondition, NotFound, Reason
from cairn_quota import audit
from cairn_quota.model import NewToken
from cairn_quota.user_store import insert_session

LIFE = timedelta(minutes=10)
_SELECT = "SELECT code, client, address, create_time, expire_time, subject, latest FROM device_logins"


@dataclass(frozen=True, slots=True)
class DeviceLogin:
    """One that waits, or was confirmed. `latest`: its session may last no longer."""

    code: str
    client: str
    address: str
    create_time: datetime
    expire_time: datetime
    subject: str | None = None
    latest: datetime | None = None


class DeviceStore:
    """Command lines that wait."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def create(self, login: DeviceLogin, *, hash: str) -> None:
        """Writes a new one; those that are over go."""
        async with self._db.transaction() as conn:
            await conn.execute("DELETE FROM device_logins WHERE expire_time <= $1", login.create_time)
            await conn.execute(
                "INSERT INTO device_logins (hash, code, client, address, create_time, expire_time)"
                " VALUES ($1, $2, $3, $4, $5, $6)",
                hash,
                login.code,
                login.client,
                login.address,
                login.create_time,
                login.expire_time,
            )

    async def login(self, code: str, *, now: datetime) -> DeviceLogin:
        """The one with this code. Raises NotFound/LOGIN_NOT_FOUND, also where its time is over."""
        row = await self._db.fetchrow(_SELECT + " WHERE code = $1 AND expire_time > $2", code, now)
        if row is None:
            raise login_not_found(code)
        return _login(row)

    async def approve(
        self, code: str, *, subject: str, latest: datetime | None, now: datetime
    ) -> DeviceLogin:
        """Whoever asked may act as `subject`; good once. Raises NotFound/LOGIN_NOT_FOUND."""
        async with self._db.transaction() as conn:
            row = await conn.fetchrow(
                "UPDATE device_logins SET subject = $2, latest = $3"
                " WHERE code = $1 AND expire_time > $4 AND subject IS NULL"
                " RETURNING code, client, address, create_time, expire_time, subject, latest",
                code,
                subject,
                latest,
                now,
            )
            if row is None:
                raise login_not_found(code)
            await audit.record(
                conn, "login.approved", actor=subject, now=now, resource=f"deviceLogins/{code}",
                client=row["client"], asked_from=row["address"],
            )  # fmt: skip
        return _login(row)

    async def find(self, hash: str, *, now: datetime) -> DeviceLogin:
        """The one that was confirmed.

        Raises NotFound/LOGIN_NOT_FOUND, FailedPrecondition/LOGIN_PENDING until somebody has confirmed it.
        """
        row = await self._db.fetchrow(_SELECT + " WHERE hash = $1 AND expire_time > $2", hash, now)
        if row is None:
            raise login_not_found("")
        if row["subject"] is None:
            raise FailedPrecondition(
                f"Nobody has confirmed the login {row['code']} yet.", reason=Reason.LOGIN_PENDING
            )
        return _login(row)

    async def finish(self, hash: str, session: NewToken) -> None:
        """Begins the session, once. Raises NotFound/LOGIN_NOT_FOUND where it was begun already."""
        async with self._db.transaction() as conn:
            code = await conn.fetchval(
                "DELETE FROM device_logins WHERE hash = $1 AND subject = $2 RETURNING code",
                hash,
                session.token.subject,
            )
            if code is None:
                raise login_not_found("")
            await insert_session(conn, session, how="device")


def login_not_found(code: str) -> NotFound:
    """The same for one that never was, is over, or was used."""
    return NotFound(
        f"There is no login {code + ' ' if code else ''}that waits; it may be over. Begin again.",
        reason=Reason.LOGIN_NOT_FOUND,
    )


def _login(row: Row) -> DeviceLogin:
    return DeviceLogin(**dict(row))

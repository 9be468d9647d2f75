"""Requests that make something, safe to send again: once for each request_id, with the same answer."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, TypeVar

from google.protobuf.message import Message

from cairn_common.clock import Clock
from cairn_common.db import Connection, Database, Row
from cairn_common.errors import FailedPrecondition, InvalidArgument, Reason
from cairn_common.rpc import caller, credential
from cairn_common.sealing import Sealed, Sealer

REMEMBERED = timedelta(days=1)
"""For so long a request_id of a caller stands for the request that came with it first."""
SECRET_TOLD = timedelta(hours=1)
"""For so long an answer that holds a secret is given again."""
LONGEST_ID = 64
_SECRET = "secret"  # noqa: S105 # the field of an answer that holds one
_PURPOSE = b"cairn-requests"
# Of what is old, as much is removed with each request.
_AT_A_TIME = 100

Answer = TypeVar("Answer", bound=Message)


class Once:
    """Makes what a request asks for, once for each request_id of its caller, whatever is sent how often.

    What is made, and the answer, are committed together. An answer with a secret is kept sealed with the
    token that the caller came with, which is not kept: whoever has the database has no secret, and who comes
    with another token is not told it.
    """

    def __init__(self, db: Database, clock: Clock) -> None:
        self._db = db
        self._clock = clock

    async def __call__(
        self, request: Any, answer: type[Answer], make: Callable[[], Awaitable[Answer]]
    ) -> Answer:
        """What `make` answers, or answered before. `request` has a field request_id; without one nothing is
        remembered. `make` is called in one transaction of this database. The caller's rights were checked.

        Raises InvalidArgument/REQUEST_ID_REUSED where the id came with another request, and
        FailedPrecondition/SECRET_TOLD where the answer's secret is not told again.
        """
        request_id = check_request_id(request.request_id)
        if not request_id:
            return await make()
        async with self._db.whole() as conn:
            earlier = await self._claim(conn, request)
            if earlier is not None:
                return self._again(request_id, earlier, answer)
            made = await make()
            await self._keep(conn, request_id, made)
        return made

    async def _claim(self, conn: Connection, request: Any) -> Row | None:
        """What the request was answered before; None: it is the first, and others wait for its end."""
        now, who = self._clock.now(), caller().subject
        await _forget(conn, before=now - REMEMBERED)
        await _blot_out(conn, before=now - SECRET_TOLD)
        kind, same = request.DESCRIPTOR.full_name, digest(request)
        claimed = await conn.fetchval(
            "INSERT INTO requests (caller, request_id, kind, digest, create_time) VALUES ($1, $2, $3, $4, $5)"
            " ON CONFLICT DO NOTHING RETURNING true",
            who, request.request_id, kind, same, now,
        )  # fmt: skip
        if claimed:
            return None
        row = await conn.fetchrow(
            "SELECT kind, digest, made, answer, sealed FROM requests WHERE caller = $1 AND request_id = $2",
            who,
            request.request_id,
        )
        assert row is not None, "it is not forgotten within a transaction"
        if (row["kind"], row["digest"]) != (kind, same):
            raise reused(request.request_id)
        return row

    async def _keep(self, conn: Connection, request_id: str, made: Message) -> None:
        who, data = caller().subject, made.SerializeToString()
        if sealed := _SECRET in made.DESCRIPTOR.fields_by_name:
            data = _sealer().seal(f"{who}/{request_id}", data)
        await conn.execute(
            "UPDATE requests SET made = $3, answer = $4, sealed = $5 WHERE caller = $1 AND request_id = $2",
            who, request_id, _name(made), data, sealed,
        )  # fmt: skip

    def _again(self, request_id: str, row: Row, answer: type[Answer]) -> Answer:
        data = row["answer"]
        if row["sealed"] and data is not None:
            try:
                data = _sealer().open(f"{caller().subject}/{request_id}", bytes(data))
            except Sealed:
                data = None
        if data is None:
            raise FailedPrecondition(
                f"The request id {request_id!r} has made {row['made']}; its secret was told before, and is"
                " told again within an hour and to the same token alone. If it is lost, remove what was made"
                " and make another one under a new request id.",
                reason=Reason.SECRET_TOLD,
                request_id=request_id,
                name=row["made"],
            )
        return answer.FromString(bytes(data))


def check_request_id(text: str, *, most: int = LONGEST_ID) -> str:
    """The same text. Raises InvalidArgument."""
    if len(text) > most or not text.isprintable():
        raise InvalidArgument(
            f"request_id: at most {most} printable characters",
            reason=Reason.FIELD_INVALID,
            field="request_id",
        )
    return text


def digest(request: Message) -> bytes:
    """What tells a request from another one under the same request_id."""
    return hashlib.sha256(request.SerializeToString(deterministic=True)).digest()


def reused(request_id: str) -> InvalidArgument:
    """The refusal of a request_id that came with another request before."""
    return InvalidArgument(
        f"The request id {request_id!r} was used before for another request. Use a new one.",
        reason=Reason.REQUEST_ID_REUSED,
        request_id=request_id,
    )


async def _forget(conn: Connection, *, before: Any) -> None:
    await conn.execute(
        "DELETE FROM requests WHERE (caller, request_id) IN (SELECT caller, request_id FROM requests"
        " WHERE create_time < $1 ORDER BY create_time LIMIT $2 FOR UPDATE SKIP LOCKED)",
        before,
        _AT_A_TIME,
    )


async def _blot_out(conn: Connection, *, before: Any) -> None:
    """Removes the answers whose secrets are not told again."""
    await conn.execute(
        "UPDATE requests SET answer = NULL WHERE (caller, request_id) IN (SELECT caller, request_id"
        " FROM requests WHERE create_time < $1 AND sealed AND answer IS NOT NULL"
        " LIMIT $2 FOR UPDATE SKIP LOCKED)",
        before,
        _AT_A_TIME,
    )


def _sealer() -> Sealer:
    return Sealer(credential().get_secret_value(), purpose=_PURPOSE)


def _name(made: Message) -> str:
    """Of the resource that an answer is, or holds."""
    fields = made.DESCRIPTOR.fields_by_name
    if "name" in fields:
        return str(getattr(made, "name"))  # noqa: B009
    for field in fields.values():
        if field.message_type is not None and not field.is_repeated:
            return _name(getattr(made, field.name))
    return ""

"""The one interceptor of every server: errors, request id, token, access, room, deadline, malformed bytes."""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, NoReturn
from urllib.parse import unquote

import grpc
import structlog
from google.protobuf.message import DecodeError
from grpc import aio
from pydantic import SecretStr

from cairn_common import trace
from cairn_common._slots import Slots
from cairn_common.auth import Access, Authenticate, Principal, admit
from cairn_common.errors import (
    DeadlineExceeded,
    DomainError,
    Internal,
    InvalidArgument,
    PermissionDenied,
    Reason,
    Unauthenticated,
    Unavailable,
    from_rpc_error,
    to_status,
)
from cairn_common.ids import new_uid
from cairn_common.rate import Rates

log = structlog.get_logger(__name__)

Behaviour = Callable[[Any, Any], Any]

# How many replies of a stream are made before the caller took the earlier ones.
_REPLIES_AHEAD = 2
# Calls at a time that have come in, and those of them that are one caller's; apart, those that everybody may
# make (health), and those of one address.
MOST_CALLS, MOST_OF_ONE, MOST_OF_ADDRESS = 1000, 250, 50
# How long a message is waited for, and that of a call that everybody may make. Seconds.
MESSAGE_WITHIN, PUBLIC_WITHIN = 10.0, 2.0
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_ADDRESS = re.compile(r"[0-9A-Fa-f.:]{2,45}")
_caller: ContextVar[Principal] = ContextVar("cairn_caller")
_credential: ContextVar[SecretStr] = ContextVar("cairn_credential")
_origin: ContextVar[Origin] = ContextVar("cairn_origin")


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a call comes from."""

    request_id: str = ""
    # The client's address as the door tells it, else the peer's. Whoever calls past the door can tell
    # another one, which `peer` shows.
    address: str = ""
    # The other end of the connection.
    peer: str = ""


def origin() -> Origin:
    """Where the RPC that runs now came from; nothing is known outside of one."""
    return _origin.get(Origin())


def caller() -> Principal:
    """The authenticated caller of the RPC that runs now. Raises LookupError outside of one."""
    return _caller.get()


def credential() -> SecretStr:
    """The token that the RPC that runs now came with. Raises LookupError outside of one."""
    return _credential.get()


class _Malformed:
    """Stands for a request whose bytes could not be read."""


_MALFORMED = _Malformed()


class Guard(aio.ServerInterceptor):
    """Wraps every method that a server has, of each of the four kinds."""

    def __init__(
        self,
        *,
        access: Mapping[str, Access],
        authenticate: Authenticate,
        rates: Rates | None,
        call_timeout: float,
    ) -> None:
        self._access = access
        self._authenticate = authenticate
        self._rates = rates
        self._call_timeout = call_timeout
        self._slots = Slots(most=MOST_CALLS, most_of_one=MOST_OF_ONE)
        self._public = Slots(most=MOST_CALLS, most_of_one=MOST_OF_ADDRESS)
        self._streams: set[asyncio.Task[Any]] = set()
        self._stopping = False

    def stop(self) -> None:
        """Ends the streams that are running: their callers come back to whoever serves next."""
        self._stopping = True
        for task in self._streams:
            task.cancel()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Called by gRPC for each call once its headers are there.

        What comes back takes a stream of messages, also where the method has one: so it begins before any
        message, which is waited for only once the caller was let in, and not for ever.
        """
        handler = await continuation(handler_call_details)
        if handler is None:
            # gRPC answers UNIMPLEMENTED.
            return None
        method = handler_call_details.method
        read = _tolerant(handler.request_deserializer)
        write = handler.response_serializer
        one = not handler.request_streaming
        if handler.response_streaming:
            behaviour = handler.unary_stream or handler.stream_stream
            assert behaviour is not None, "gRPC says so"
            return grpc.stream_stream_rpc_method_handler(self._stream(method, behaviour, one), read, write)
        behaviour = handler.unary_unary or handler.stream_unary
        assert behaviour is not None, "gRPC says so"
        return grpc.stream_unary_rpc_method_handler(self._unary(method, behaviour, one), read, write)

    def _unary(self, method: str, behaviour: Behaviour, one: bool) -> Behaviour:
        async def call(requests: Any, context: aio.ServicerContext[Any, Any]) -> Any:
            try:
                within = await self._enter(method, context)
                request = await _message(context, within) if one else requests
                return await self._in_time(behaviour, _readable(request), context)
            except Exception as error:
                await _fail(context, method, error)

        return call

    def _stream(self, method: str, behaviour: Behaviour, one: bool) -> Behaviour:
        async def call(requests: Any, context: aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
            try:
                within = await self._enter(method, context)
                request = await _message(context, within) if one else requests
                replies = _replies(behaviour, _readable(request), context)
                async with aclosing(self._pumped(replies)) as pumped:
                    async for reply in pumped:
                        yield reply
            except Exception as error:
                await _fail(context, method, error)

        return call

    async def _pumped(self, replies: AsyncGenerator[Any, None]) -> AsyncGenerator[Any, None]:
        """The replies, made by a task of our own: gRPC's cannot be cancelled without losing the status."""
        made: asyncio.Queue[tuple[Any] | None] = asyncio.Queue()
        room = asyncio.Semaphore(_REPLIES_AHEAD)

        async def make() -> None:
            async with aclosing(replies):
                async for reply in replies:
                    await room.acquire()
                    made.put_nowait((reply,))

        task = asyncio.create_task(make())
        task.add_done_callback(lambda _: made.put_nowait(None))
        self._streams.add(task)
        try:
            if self._stopping:
                task.cancel()
            while (reply := await made.get()) is not None:
                yield reply[0]
                room.release()
            if task.cancelled():
                raise Unavailable("shutting down; call again", reason=Reason.SHUTTING_DOWN)
            task.result()
        finally:
            self._streams.discard(task)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _enter(self, method: str, context: aio.ServicerContext[Any, Any]) -> float:
        """Lets a call in, which takes room until it has ended; how long its message may take (seconds)."""
        metadata = {
            key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)
        }
        given = metadata.get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else new_uid()
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id, rpc=method)
        trace.enter(metadata.get(trace.HEADER, ""))
        _origin.set(_origin_of(metadata, context, request_id=request_id))
        rule = self._access.get(method)
        if rule is None:
            raise PermissionDenied(f"{method} is not open to anyone", reason=Reason.METHOD_REFUSED)
        if rule.public:
            _until_the_end(self._public.take(origin().peer))
            return PUBLIC_WITHIN
        try:
            token = _bearer(metadata)
            principal = await self._authenticate(token)
        except Unauthenticated as error:
            # Tells a refused caller from a refused token that a caller asked about.
            error.metadata["refused"] = "caller"
            raise
        if self._rates is not None and not principal.is_service:
            self._rates.take(principal.token_uid)
        admit(principal, rule)
        _until_the_end(self._slots.take(principal.subject, alone=not principal.is_service))
        _caller.set(principal)
        _credential.set(SecretStr(token))
        structlog.contextvars.bind_contextvars(caller=principal.subject)
        return MESSAGE_WITHIN

    async def _in_time(
        self, behaviour: Behaviour, request: Any, context: aio.ServicerContext[Any, Any]
    ) -> Any:
        # gRPC itself holds the deadline that a caller set.
        if context.time_remaining() is not None:
            return await behaviour(request, context)
        try:
            async with asyncio.timeout(self._call_timeout) as limit:
                return await behaviour(request, context)
        except TimeoutError:
            if not limit.expired():
                raise
            raise DeadlineExceeded(
                f"no answer within {self._call_timeout:g} s; calls should set a deadline"
            ) from None


def _until_the_end(give_back: Callable[[], None]) -> None:
    call = asyncio.current_task()
    assert call is not None, "gRPC runs each call as a task"
    call.add_done_callback(lambda _: give_back())


async def _message(context: aio.ServicerContext[Any, Any], within: float) -> Any:
    """The one message of a call. Raises DeadlineExceeded, or InvalidArgument where there is none."""
    try:
        async with asyncio.timeout(within):
            message = await context.read()
    except TimeoutError:
        raise DeadlineExceeded(f"no message came within {within:g} s of the call's headers") from None
    if message is aio.EOF:
        raise InvalidArgument("the call has no message", reason=Reason.REQUEST_MALFORMED)
    return message


async def _replies(
    behaviour: Behaviour, request: Any, context: aio.ServicerContext[Any, Any]
) -> AsyncGenerator[Any, None]:
    made = behaviour(request, context)
    if inspect.isasyncgen(made):
        async with aclosing(made):
            async for reply in made:
                yield reply
    else:
        # It writes its replies to the context itself.
        await made


def _tolerant(read: Callable[[bytes], Any] | None) -> Callable[[bytes], Any] | None:
    """gRPC would answer UNKNOWN with the parser's own words, before any handler runs."""
    if read is None:
        return None

    def tolerant(data: bytes) -> Any:
        try:
            return read(data)
        except (DecodeError, ValueError):
            return _MALFORMED

    return tolerant


def _readable(request: Any) -> Any:
    if request is _MALFORMED:
        raise InvalidArgument("the request's bytes cannot be read", reason=Reason.REQUEST_MALFORMED)
    return _each_readable(request) if hasattr(request, "__aiter__") else request


async def _each_readable(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for request in requests:
        yield _readable(request)


def _origin_of(
    metadata: Mapping[str, str], context: aio.ServicerContext[Any, Any], *, request_id: str
) -> Origin:
    # ipv4:127.0.0.1:40000, ipv6:[::1]:40000 or, percent-encoded, ipv6:%5B::1%5D:40000
    found = re.fullmatch(r"ipv[46]:(.+):\d+", unquote(context.peer() or ""))
    peer = found[1].strip("[]") if found else ""
    told = metadata.get("x-client-address", "")
    return Origin(request_id=request_id, address=told if _ADDRESS.fullmatch(told) else peer, peer=peer)


def _bearer(metadata: Mapping[str, str]) -> str:
    kind, _, token = metadata.get("authorization", "").partition(" ")
    if kind.lower() != "bearer" or not token:
        raise Unauthenticated("send a token: authorization: Bearer <token>", reason=Reason.TOKEN_MISSING)
    return token.strip()


async def _fail(context: aio.ServicerContext[Any, Any], method: str, error: Exception) -> NoReturn:
    if isinstance(error, aio.AbortError):
        raise error
    if isinstance(error, aio.AioRpcError):
        error = from_rpc_error(error)
    if not isinstance(error, DomainError) or isinstance(error, Internal):
        error_id = new_uid()
        log.error("rpc.failed", error_id=error_id, exc_info=error)
        error = Internal(f"internal error (id {error_id})", error_id=error_id)
    status = to_status(error)
    await context.abort(
        error.code,
        status.message,
        (("grpc-status-details-bin", status.SerializeToString()),),
    )
    raise AssertionError("abort returns never")

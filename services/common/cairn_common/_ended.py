"""The status that a server ended a stream with, where grpc.aio loses it.

A message that is handed over while the server ends the call fails, and grpc.aio then writes an INTERNAL of
its own over the status that has come, or is about to (grpc issue 36066; a mending is in its pull request
43486). So a refusal of a stream would at times reach its caller as a mistake of ours.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from typing import Any

import grpc
from grpc import aio

_OVER_IT = "Internal error from Core"
# The server's status is on this machine already, or will not come.
_WAIT_SECONDS = 1.0


async def replies_of(call: Any) -> AsyncGenerator[Any, None]:
    """The replies of a stream-stream call; it ends or raises AioRpcError as the server said."""
    said: asyncio.Future[aio.AioRpcError] = asyncio.get_running_loop().create_future()

    def keep(ended: Any) -> None:
        status = _status(ended)
        if not said.done() and not _is_over_it(status):
            said.set_result(status)

    call.add_done_callback(keep)
    try:
        async for reply in call:
            yield reply
    except aio.AioRpcError as error:
        if not _is_over_it(error):
            raise
        await asyncio.wait([said], timeout=_WAIT_SECONDS)
        status = said.result() if said.done() else error
        if status.code() is not grpc.StatusCode.OK:
            raise status from None
    finally:
        call.cancel()


def _is_over_it(error: aio.AioRpcError) -> bool:
    return error.code() is grpc.StatusCode.INTERNAL and error.details() == _OVER_IT


def _status(ended: Any) -> aio.AioRpcError:
    """What a call that has ended says of it now, before anything is written over it."""
    return aio.AioRpcError(
        _now(ended.code()),
        aio.Metadata(),
        _now(ended.trailing_metadata()) or aio.Metadata(),
        details=_now(ended.details()),
    )


def _now(answer: Coroutine[Any, Any, Any]) -> Any:
    """What a coroutine returns that has nothing to wait for."""
    try:
        answer.send(None)
    except StopIteration as done:
        return done.value
    answer.close()
    raise AssertionError("a call that has ended waits for nothing")

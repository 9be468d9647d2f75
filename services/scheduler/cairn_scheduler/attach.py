"""AttachService: people reach into running attempts, whose runners come to meet them here."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any, TypeVar

import grpc
import structlog

from cairn.scheduler.v1 import attach_pb2, attach_pb2_grpc, events_pb2
from cairn_common import outbox
from cairn_common.auth import Principal, Role, access, require
from cairn_common.clock import Clock
from cairn_common.db import Database
from cairn_common.errors import (
    DomainError,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Reason,
    Unavailable,
)
from cairn_common.ids import check_uid, new_uid, parse_name
from cairn_common.rpc import caller
from cairn_common.subjects import subject
from cairn_scheduler import store, wire
from cairn_scheduler.model import Attempt, Job
from cairn_scheduler.sessions import Meeting, Session
from cairn_scheduler.watch import Watch

log = structlog.get_logger(__name__)

NAME = "cairn.scheduler.v1.AttachService"
ACCESS = {
    f"/{NAME}/Attach": access(Role.MEMBER),
    # A run's token alone: the handlers hold that.
    f"/{NAME}/Serve": access(Role.MEMBER, run_token=True),
    f"/{NAME}/Carry": access(Role.MEMBER, run_token=True),
}
CHECK_SECONDS = 15.0
MOST_DATA_BYTES = 64 * 1024
_MOST_COMMAND_BYTES = 120 * 1024
_TOLD_CHARACTERS = 1000
# Of one caller's connections to one port, the first in this time is told.
_QUIET_SECONDS = 600.0
_MOST_REMEMBERED = 1000

Context = grpc.aio.ServicerContext[Any, Any]
M = TypeVar("M")


class AttachApi(attach_pb2_grpc.AttachServiceServicer):
    """Handlers: check who may, let the two ends meet, and pass on what they say."""

    def __init__(
        self, db: Database, *, clock: Clock, watch: Watch, check: Callable[[str], Awaitable[Principal]]
    ) -> None:
        self._db = db
        self._clock = clock
        self._watch = watch
        self._check = check
        self._meeting = Meeting(self._knock)
        self._told: dict[tuple[str, str, int, int], float] = {}

    async def Attach(
        self, requests: AsyncIterator[attach_pb2.AttachRequest], context: Context
    ) -> AsyncIterator[attach_pb2.AttachResponse]:
        """One session, from its start to its end."""
        start = (await _first(requests)).start
        session = await self._begin(start)
        with self._meeting.opened(session):
            await self._tell(session)
            log.info("session.opened", **_about(session))
            try:
                async with self._attended(session, requests, context):
                    await self._meeting.settle(session)
                    yield attach_pb2.AttachResponse(attached=_attached(session))
                    async with aclosing(session.outputs.items()) as outputs:
                        async for output in outputs:
                            _hold_success(output)
                            yield attach_pb2.AttachResponse(output=output)
                    if session.error is not None:
                        raise session.error
            finally:
                seconds = (self._clock.now() - session.open_time).total_seconds()
                log.info("session.closed", seconds=round(seconds, 1), **_about(session))

    async def Serve(
        self, request: attach_pb2.ServeRequest, context: Context
    ) -> AsyncIterator[attach_pb2.ServeResponse]:
        """The sessions that wait for a runner."""
        attempt_uid = _runner()
        yield attach_pb2.ServeResponse()
        async with aclosing(self._meeting.serve(attempt_uid, request.ranks)) as waiting:
            async for uid in waiting:
                yield attach_pb2.ServeResponse(session=uid)

    async def Carry(
        self, requests: AsyncIterator[attach_pb2.CarryRequest], context: Context
    ) -> AsyncIterator[attach_pb2.CarryResponse]:
        """A runner's end of one session."""
        attempt_uid = _runner()
        uid = (await _first(requests)).session
        with self._meeting.carried(uid, attempt_uid=attempt_uid) as session:
            yield attach_pb2.CarryResponse(start=session.start)
            taking = asyncio.create_task(_take(requests, session))
            try:
                async with aclosing(session.inputs.items()) as inputs:
                    async for item in inputs:
                        yield attach_pb2.CarryResponse(input=item)
            finally:
                taking.cancel()
                await asyncio.gather(taking, return_exceptions=True)

    async def _begin(self, start: attach_pb2.AttachStart) -> Session:
        parts = parse_name("teams/{team}/jobs/{job}", start.job)
        team, uid = parts["team"], check_uid(parts["job"], "job")
        require(caller(), team, Role.MEMBER)
        job = await store.job(self._db, team=team, uid=uid)
        if job is None:
            raise NotFound(f"there is no job {uid} in team {team}", reason=Reason.JOB_NOT_FOUND, job=uid)
        attempt = _active(job)
        _hold_start(start, job)
        return Session(
            uid=new_uid(),
            actor=caller().subject,
            team=team,
            job_uid=uid,
            attempt_uid=attempt.uid,
            attempt_number=attempt.number,
            start=start,
            open_time=self._clock.now(),
        )

    async def _tell(self, session: Session) -> None:
        """session_opened, for good; but not for each of a browser's connections."""
        now = session.open_time.timestamp()
        if session.start.port:
            key = (session.actor, session.attempt_uid, session.start.rank, session.start.port)
            if now - self._told.get(key, 0.0) < _QUIET_SECONDS:
                return
            self._told = {k: t for k, t in self._told.items() if now - t < _QUIET_SECONDS}
            if len(self._told) < _MOST_REMEMBERED:
                self._told[key] = now
        async with self._db.transaction() as conn:
            await outbox.add(conn, subject=_to(session), payload=_fact(session), id=session.uid)

    async def _knock(self, session: Session) -> None:
        """The fact once more, directly: the stream keeps one of an id, the runner hears each."""
        bus = self._watch.bus
        if bus is None:
            return
        with suppress(Unavailable):
            await bus.publish(_to(session), _fact(session), msg_id=session.uid)

    @asynccontextmanager
    async def _attended(
        self, session: Session, requests: AsyncIterator[attach_pb2.AttachRequest], context: Context
    ) -> AsyncIterator[None]:
        """Meanwhile: what the person says is passed on, and whether they still may is asked."""
        tasks = [
            asyncio.create_task(_feed(requests, session)),
            asyncio.create_task(self._guard(session, _token(context))),
        ]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _guard(self, session: Session, token: str) -> None:
        """Ends a session whose caller may not go on, or whose attempt has ended."""
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            try:
                require(await self._check(token), session.team, Role.MEMBER)
                job = await store.job(self._db, team=session.team, uid=session.job_uid)
                if job is None or job.active is None or job.active.uid != session.attempt_uid:
                    raise _attempt_ended()
            except Unavailable:
                continue  # nobody can say now; what was right before stays so
            except DomainError as error:
                session.end(error)
                return


async def _first(requests: AsyncIterator[M]) -> M:
    async for request in requests:
        return request
    raise InvalidArgument("the stream ended before it said what is wanted")


async def _feed(requests: AsyncIterator[attach_pb2.AttachRequest], session: Session) -> None:
    try:
        async for request in requests:
            if len(request.input.data) > MOST_DATA_BYTES:
                raise InvalidArgument(f"a message carries at most {MOST_DATA_BYTES} bytes")
            if request.HasField("input"):
                await session.inputs.put(request.input)
    except DomainError as error:
        session.end(error)


async def _take(requests: AsyncIterator[attach_pb2.CarryRequest], session: Session) -> None:
    """What the runner says, until it has said all."""
    try:
        async for request in requests:
            if not request.HasField("output"):
                continue
            await session.outputs.put(request.output)
            if request.output.WhichOneof("output") in ("exit", "failure"):
                session.end()
                return
    finally:
        session.end(_lost())


def _runner() -> str:
    who = caller()
    if not who.is_run or not who.attempt_uid:
        raise PermissionDenied("only a job's runner may serve its sessions", reason=Reason.SCOPE_TOO_LOW)
    return who.attempt_uid


def _active(job: Job) -> Attempt:
    if job.state.final:
        raise FailedPrecondition(
            f"job {job.uid} has ended as {job.state}; there is nothing to reach into",
            reason=Reason.JOB_ENDED,
            job=job.uid,
            state=job.state,
        )
    if job.active is None:
        why = f": {job.reason}" if job.reason else ""
        raise FailedPrecondition(
            f"job {job.uid} does not run yet, it is {job.state}{why}", job=job.uid, state=job.state
        )
    return job.active


def _hold_start(start: attach_pb2.AttachStart, job: Job) -> None:
    if not 0 <= start.rank < job.spec.num_nodes:
        raise InvalidArgument(
            f"rank: {start.rank} is none of this job's; it has {job.spec.num_nodes}, counted from 0",
            field="rank",
        )
    match start.WhichOneof("target"):
        case "port":
            if not 0 < start.port < 65536:
                raise InvalidArgument(f"port: {start.port} is not 1 to 65535", field="port")
        case "command":
            if sum(len(word.encode()) + 1 for word in start.command.argv) > _MOST_COMMAND_BYTES:
                raise InvalidArgument(f"command: at most {_MOST_COMMAND_BYTES} bytes", field="command")
            if any("\0" in word for word in start.command.argv):
                raise InvalidArgument("command: it cannot hold NUL", field="command")
        case _:
            raise InvalidArgument("say what is wanted: a command or a port", field="target")


def _hold_success(output: attach_pb2.Output) -> None:
    if output.WhichOneof("output") != "failure":
        return
    if output.failure.attempt_ended:
        raise _attempt_ended()
    raise FailedPrecondition(output.failure.message[:500], reason=Reason.TARGET_REFUSED)


def _attempt_ended() -> DomainError:
    return FailedPrecondition("the job's attempt has ended, and the session with it", reason=Reason.JOB_ENDED)


def _lost() -> DomainError:
    return Unavailable(
        "the connection to the job's node broke; the session has ended", reason=Reason.SESSION_LOST
    )


def _token(context: Context) -> str:
    metadata = dict(context.invocation_metadata() or ())
    return str(metadata.get("authorization", "")).partition(" ")[2].strip()


def _attached(session: Session) -> attach_pb2.Attached:
    return attach_pb2.Attached(
        session=session.uid, attempt=_attempt_name(session), attempt_number=session.attempt_number
    )


def _attempt_name(session: Session) -> str:
    return f"teams/{session.team}/jobs/{session.job_uid}/attempts/{session.attempt_uid}"


def _to(session: Session) -> str:
    return subject("scheduler", "session", "opened", session.team, session.job_uid)


def _fact(session: Session) -> bytes:
    fact = events_pb2.SchedulerEvent(
        id=session.uid, time=wire.timestamp(session.open_time), actor=session.actor
    )
    fact.session_opened.MergeFrom(
        events_pb2.SessionOpened(
            uid=session.uid,
            attempt=_attempt_name(session),
            rank=session.start.rank,
            command=shlex.join(session.start.command.argv)[:_TOLD_CHARACTERS],
            port=session.start.port,
        )
    )
    return fact.SerializeToString()


def _about(session: Session) -> dict[str, object]:
    """For the log: who, what, where."""
    start = session.start
    what: dict[str, object] = (
        {"port": start.port}
        if start.port
        else {
            "command": shlex.join(start.command.argv)[:_TOLD_CHARACTERS],
            "terminal": start.command.terminal,
        }
    )
    return {
        "session": session.uid,
        "actor": session.actor,
        "team": session.team,
        "job": session.job_uid,
        "attempt": session.attempt_uid,
        "rank": start.rank,
        **what,
    }

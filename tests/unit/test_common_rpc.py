"""The guards of every gRPC server, by real calls to a real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc import aio
from grpc._cython import cygrpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from cairn.quota.v1 import quota_pb2, quota_pb2_grpc, team_pb2, token_pb2
from cairn.scheduler.v1 import job_pb2, scheduler_pb2, scheduler_pb2_grpc
from cairn_common import rpc
from cairn_common.auth import Principal, Role, Scope, TokenChecker, access, new_token, require
from cairn_common.clock import FakeClock
from cairn_common.errors import (
    DomainError,
    Internal,
    NotFound,
    PermissionDenied,
    Reason,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
    from_rpc_error,
)

QUOTA = "/cairn.quota.v1.QuotaService/"
SCHEDULER = "/cairn.scheduler.v1.SchedulerService/"
TOKENS = {
    "member-token-123456": Principal("users/ada", Scope.WRITE, {"main": Role.MEMBER}, "t1"),
    "reader-token-123456": Principal("users/bob", Scope.READ, {"main": Role.OWNER}, "t2"),
    "runner-token-123456": Principal("runs/r", Scope.RUN, {"main": Role.MEMBER}, "t3", run_uid="r"),
    "scheduler-token-123": Principal("services/scheduler", Scope.ADMIN, {}, "t4"),
}


async def authenticate(token: str) -> Principal:
    try:
        return TOKENS[token]
    except KeyError:
        raise Unauthenticated("this token is not known here", reason=Reason.TOKEN_INVALID) from None


class Quota(quota_pb2_grpc.QuotaServiceServicer):
    """Answers as its `name` says."""

    async def GetTeam(self, request: quota_pb2.GetTeamRequest, context: Any) -> team_pb2.Team:
        match request.name:
            case "full":
                raise ResourceExhausted("the limit is 8", reason=Reason.QUOTA_EXCEEDED, limit=8, used=6)
            case "bug":
                raise KeyError("password=hunter2")
            case "long":
                raise NotFound("x" * 100_000, reason=Reason.TEAM_NOT_FOUND)
            case "slow":
                await asyncio.Event().wait()
            case team:
                require(rpc.caller(), team, Role.VIEWER)
        return team_pb2.Team(name=request.name, display_name=rpc.caller().subject)

    async def UpdateTeam(self, request: quota_pb2.UpdateTeamRequest, context: Any) -> team_pb2.Team:
        return team_pb2.Team()

    async def ReserveQuota(self, request: Any, context: Any) -> Any:
        return quota_pb2.Usage()  # Not what the method says: any message goes over the wire.

    async def ListTeams(self, request: Any, context: Any) -> quota_pb2.ListTeamsResponse:
        return quota_pb2.ListTeamsResponse()


class Scheduler(scheduler_pb2_grpc.SchedulerServiceServicer):
    """Streams."""

    async def WatchJobs(
        self, request: scheduler_pb2.WatchJobsRequest, context: Any
    ) -> AsyncIterator[scheduler_pb2.WatchJobsResponse]:
        yield scheduler_pb2.WatchJobsResponse(job=job_pb2.Job(name=rpc.caller().subject))
        if request.cursor == "bug":
            raise KeyError("password=hunter2")
        await asyncio.Event().wait()


def add_uploads(server: aio.Server) -> None:
    """A method of the fourth kind, a stream of requests and one reply, which no service of ours has."""

    async def upload(requests: AsyncIterator[quota_pb2.GetTeamRequest], context: Any) -> team_pb2.Team:
        names = [request.name async for request in requests]
        require(rpc.caller(), "main", Role.MEMBER)
        return team_pb2.Team(name=",".join(names))

    handler = grpc.stream_unary_rpc_method_handler(
        upload, quota_pb2.GetTeamRequest.FromString, team_pb2.Team.SerializeToString
    )
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("test.Uploads", {"Upload": handler}),)
    )


ACCESS = {
    "/test.Uploads/Upload": access(Role.MEMBER),
    QUOTA + "GetTeam": access(Role.VIEWER, run_token=True),
    QUOTA + "UpdateTeam": access(Role.MEMBER),
    QUOTA + "ReserveQuota": access(Role.SERVICE),
    SCHEDULER + "WatchJobs": access(Role.VIEWER),
    # ListTeams is left out.
}


@asynccontextmanager
async def serving(**options: Any) -> AsyncIterator[rpc.Server]:
    async with rpc.server(
        bind="127.0.0.1:0",
        access=ACCESS,
        authenticate=authenticate,
        services=[
            add_uploads,
            lambda server: quota_pb2_grpc.add_QuotaServiceServicer_to_server(Quota(), server),
            lambda server: scheduler_pb2_grpc.add_SchedulerServiceServicer_to_server(Scheduler(), server),
        ],
        names=["cairn.quota.v1.QuotaService", "cairn.scheduler.v1.SchedulerService"],
        **options,
    ) as running:
        yield running


@pytest.fixture
async def server() -> AsyncIterator[rpc.Server]:
    async with serving() as running:
        yield running


@asynccontextmanager
async def calling(
    server: rpc.Server, token: str | None = "member-token-123456"
) -> AsyncIterator[aio.Channel]:
    async with rpc.channel(f"127.0.0.1:{server.port}", token) as channel:
        yield channel


async def failure(call: Any) -> tuple[DomainError, list[error_details_pb2.ErrorInfo]]:
    """The error of a call, and every ErrorInfo of its status."""
    with pytest.raises(aio.AioRpcError) as caught:
        await call
    infos = []
    for key, value in caught.value.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            assert isinstance(value, bytes)
            for detail in status_pb2.Status.FromString(value).details:
                info = error_details_pb2.ErrorInfo()
                assert detail.Unpack(info)
                infos.append(info)
    return from_rpc_error(caught.value), infos


async def test_an_error_travels_with_exactly_one_error_info_and_comes_back_as_itself(
    server: rpc.Server,
) -> None:
    async with calling(server) as channel:
        error, infos = await failure(
            quota_pb2_grpc.QuotaServiceStub(channel).GetTeam(quota_pb2.GetTeamRequest(name="full"))
        )
    assert isinstance(error, ResourceExhausted)
    assert (error.message, error.reason) == ("the limit is 8", Reason.QUOTA_EXCEEDED)
    assert error.metadata == {"limit": "8", "used": "6"}
    (info,) = infos
    assert (info.reason, info.domain) == ("QUOTA_EXCEEDED", "cairn")


@pytest.mark.parametrize("stream", [False, True])
async def test_an_unknown_exception_tells_the_caller_nothing_but_an_id(
    server: rpc.Server, stream: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    async with calling(server) as channel:
        if stream:
            watch = scheduler_pb2_grpc.SchedulerServiceStub(channel).WatchJobs(
                scheduler_pb2.WatchJobsRequest(cursor="bug")
            )
            assert (await watch.read()).job.name == "users/ada"
            error, infos = await failure(watch.read())
        else:
            error, infos = await failure(
                quota_pb2_grpc.QuotaServiceStub(channel).GetTeam(quota_pb2.GetTeamRequest(name="bug"))
            )
    assert isinstance(error, Internal)
    assert error.message == f"internal error (id {error.metadata['error_id']})"
    assert len(infos) == 1
    logged = capsys.readouterr().out
    assert error.metadata["error_id"] in logged
    assert "hunter2" in logged


async def test_a_message_too_long_for_a_header_is_cut_and_arrives(server: rpc.Server) -> None:
    async with calling(server) as channel:
        error, infos = await failure(
            quota_pb2_grpc.QuotaServiceStub(channel).GetTeam(quota_pb2.GetTeamRequest(name="long"))
        )
    assert isinstance(error, NotFound)
    assert 1000 < len(error.message) <= 2000
    assert len(infos) == 1


# Every kind of call that a server has: (method, request, is it a stream of requests, of replies).
METHODS = [
    (QUOTA + "GetTeam", "unary_unary"),
    (SCHEDULER + "WatchJobs", "unary_stream"),
    ("/test.Uploads/Upload", "stream_unary"),
    ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", "stream_stream"),
]


def raw(channel: aio.Channel, method: str, kind: str, data: bytes) -> Any:
    """A call with bytes of our own; awaitable for its first reply."""
    call = getattr(channel, kind)(method, request_serializer=None, response_deserializer=None)
    if kind.startswith("stream"):

        async def requests() -> AsyncIterator[bytes]:
            yield data

        made = call(requests())
    else:
        made = call(data)
    return made.read() if kind.endswith("stream") else made


@pytest.mark.parametrize(("method", "kind"), METHODS)
async def test_no_kind_of_call_passes_without_a_good_token(
    server: rpc.Server, method: str, kind: str
) -> None:
    for token, reason in (
        (None, Reason.TOKEN_MISSING),
        ("forged-token-123456", Reason.TOKEN_INVALID),
    ):
        async with calling(server, token) as channel:
            error, infos = await failure(raw(channel, method, kind, b""))
        assert isinstance(error, Unauthenticated)
        assert [info.reason for info in infos] == [reason]


@pytest.mark.parametrize(("method", "kind"), METHODS)
async def test_bytes_that_are_no_request_are_an_invalid_argument(
    server: rpc.Server, method: str, kind: str
) -> None:
    for data in (b"\xff\xff\xff", b"\x0a\x05ab", b"\x0a\x02\xff\xfe"):
        async with calling(server) as channel:
            error, infos = await failure(raw(channel, method, kind, data))
        assert error.code is grpc.StatusCode.INVALID_ARGUMENT
        assert [info.reason for info in infos] == [Reason.REQUEST_MALFORMED]


async def test_a_stream_of_requests_is_served(server: rpc.Server) -> None:
    async with calling(server) as channel:
        data = quota_pb2.GetTeamRequest(name="main").SerializeToString()
        reply = await raw(channel, "/test.Uploads/Upload", "stream_unary", data)
    assert team_pb2.Team.FromString(reply).name == "main"


async def test_roles_and_scopes_are_held_before_the_handler(server: rpc.Server) -> None:
    async def answer(token: str, method: str, name: str = "main") -> DomainError | None:
        async with calling(server, token) as channel:
            try:
                await raw(
                    channel,
                    QUOTA + method,
                    "unary_unary",
                    quota_pb2.GetTeamRequest(name=name).SerializeToString(),
                )
            except aio.AioRpcError as error:
                return from_rpc_error(error)
        return None

    assert await answer("member-token-123456", "GetTeam") is None
    assert await answer("runner-token-123456", "GetTeam") is None
    assert await answer("scheduler-token-123", "ReserveQuota") is None
    for token, method, kind, reason in (
        ("reader-token-123456", "UpdateTeam", PermissionDenied, Reason.SCOPE_TOO_LOW),
        ("runner-token-123456", "UpdateTeam", PermissionDenied, Reason.SCOPE_TOO_LOW),
        ("member-token-123456", "ReserveQuota", PermissionDenied, Reason.ROLE_TOO_LOW),
        # Not in the table: nobody may.
        ("scheduler-token-123", "ListTeams", PermissionDenied, Reason.METHOD_REFUSED),
    ):
        error = await answer(token, method)
        assert isinstance(error, kind)
        assert error.reason == reason
    foreign = await answer("member-token-123456", "GetTeam", "vision")
    missing = await answer("member-token-123456", "GetTeam", "nowhere")
    assert isinstance(foreign, NotFound)
    assert isinstance(missing, NotFound)
    assert foreign.reason == missing.reason == Reason.TEAM_NOT_FOUND


async def test_an_unknown_method_is_unimplemented(server: rpc.Server) -> None:
    async with calling(server, "scheduler-token-123") as channel:
        for method in (QUOTA + "Wipe", "/cairn.none.v1.None/Get"):
            error, _ = await failure(raw(channel, method, "unary_unary", b""))
            assert error.code is grpc.StatusCode.UNIMPLEMENTED


async def test_health_is_public_and_reflection_lists_the_services(server: rpc.Server) -> None:
    async with calling(server, None) as channel:
        answer = await health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(service="cairn.quota.v1.QuotaService")
        )
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
    async with calling(server) as channel:
        call = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(
            iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        )
        reply = await call.read()
        call.cancel()
    assert "cairn.quota.v1.QuotaService" in {item.name for item in reply.list_services_response.service}


async def test_a_call_without_a_deadline_is_answered_in_the_end() -> None:
    async with (
        serving(call_timeout=0.1) as server,
        aio.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        error, infos = await failure(
            quota_pb2_grpc.QuotaServiceStub(channel).GetTeam(
                quota_pb2.GetTeamRequest(name="slow"),
                metadata=(("authorization", "Bearer member-token-123456"),),
            )
        )
        assert error.code is grpc.StatusCode.DEADLINE_EXCEEDED
        assert len(infos) == 1


async def test_a_channel_gives_up_on_a_neighbour_that_does_not_answer(server: rpc.Server) -> None:
    async with rpc.channel(f"127.0.0.1:{server.port}", "member-token-123456", timeout=0.1) as channel:
        error, _ = await failure(
            quota_pb2_grpc.QuotaServiceStub(channel).GetTeam(quota_pb2.GetTeamRequest(name="slow"))
        )
    assert isinstance(error, Unavailable)


def test_every_option_is_one_that_grpc_knows() -> None:
    """It ignores what it does not know, so a wrong name has no effect and is found under load."""
    library = Path(cygrpc.__file__).read_bytes()
    for name, _ in (*rpc.SERVER_OPTIONS, *rpc.CHANNEL_OPTIONS):
        assert name.encode() + b"\0" in library, name


async def test_stopping_ends_streams_at_once_and_lets_calls_finish() -> None:
    async with asyncio.timeout(7):
        async with serving(grace=60.0) as server:
            channel = rpc.channel(f"127.0.0.1:{server.port}", "member-token-123456")
            watch = scheduler_pb2_grpc.SchedulerServiceStub(channel).WatchJobs(
                scheduler_pb2.WatchJobsRequest()
            )
            await watch.read()
        error, infos = await failure(watch.read())
        await channel.close()
    assert isinstance(error, Unavailable)
    assert [info.reason for info in infos] == [Reason.SHUTTING_DOWN]


async def test_a_taken_port_is_refused(server: rpc.Server) -> None:
    with pytest.raises(OSError, match="taken"):
        async with rpc.server(
            bind=f"127.0.0.1:{server.port}", access={}, authenticate=authenticate, services=[], names=[]
        ):
            pass


class Identity(quota_pb2_grpc.IdentityServiceServicer):
    """The quota service's token check, counting its calls."""

    def __init__(self) -> None:
        self.asked = 0
        self.refused: dict[str, Reason] = {}
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.expire_in: timedelta | None = None

    async def CheckToken(self, request: quota_pb2.CheckTokenRequest, context: Any) -> token_pb2.Principal:
        self.asked += 1
        await self.may_answer.wait()
        if request.token in self.refused:
            raise Unauthenticated("no", reason=self.refused[request.token])
        made = token_pb2.Principal(subject="users/ada", scope=token_pb2.SCOPE_WRITE, token_uid="t1")
        made.memberships.add(team="main", role=token_pb2.ROLE_MEMBER)
        return made


@asynccontextmanager
async def checking(
    identity: Identity, clock: FakeClock, *, own_token: str = "scheduler-token-123"
) -> AsyncIterator[TokenChecker]:
    def add(server: aio.Server) -> None:
        quota_pb2_grpc.add_IdentityServiceServicer_to_server(identity, server)

    async with (
        rpc.server(
            bind="127.0.0.1:0",
            access={"/cairn.quota.v1.IdentityService/CheckToken": access(Role.SERVICE)},
            authenticate=authenticate,
            services=[add],
            names=["cairn.quota.v1.IdentityService"],
        ) as server,
        rpc.channel(f"127.0.0.1:{server.port}", own_token) as channel,
    ):
        yield TokenChecker(channel, clock)


async def test_a_token_is_asked_for_once_in_five_seconds_and_once_at_a_time() -> None:
    identity, clock, token = Identity(), FakeClock(), new_token()
    async with checking(identity, clock) as checker:
        found = await asyncio.gather(*(checker.check(token) for _ in range(20)))
        assert identity.asked == 1
        assert found[0].may("main", Role.MEMBER)
        assert not found[0].may("main", Role.ADMIN)
        clock.advance(4.9)
        await checker.check(token)
        assert identity.asked == 1
        clock.advance(0.2)
        await checker.check(token)
        assert identity.asked == 2


async def test_a_revoked_token_is_forgotten_even_while_it_is_being_checked() -> None:
    identity, token = Identity(), new_token()
    async with checking(identity, FakeClock()) as checker:
        await checker.check(token)
        checker.forget("t1")
        identity.may_answer.clear()
        late = asyncio.create_task(checker.check(token))
        while identity.asked < 2:
            await asyncio.sleep(0)
        # Revoked after quota looked it up, before its answer is here.
        checker.forget("t1")
        identity.may_answer.set()
        await late
        identity.refused[token] = Reason.TOKEN_REVOKED
        with pytest.raises(Unauthenticated) as caught:
            await checker.check(token)
        assert caught.value.reason == Reason.TOKEN_REVOKED


async def test_a_refused_token_says_why_and_junk_is_not_even_asked_about() -> None:
    identity, token = Identity(), new_token()
    identity.refused[token] = Reason.TOKEN_EXPIRED
    async with checking(identity, FakeClock()) as checker:
        with pytest.raises(Unauthenticated) as caught:
            await checker.check(token)
        assert caught.value.reason == Reason.TOKEN_EXPIRED
        for junk in ("", "x", "a b" * 10, "é" * 30, "x" * 100_000):
            with pytest.raises(Unauthenticated):
                await checker.check(junk)
        assert identity.asked == 1


async def test_nobody_passes_while_tokens_cannot_be_checked() -> None:
    async with rpc.channel("127.0.0.1:1", "scheduler-token-123") as channel:
        with pytest.raises(Unavailable):
            await TokenChecker(channel).check(new_token())
    # A service whose own token is no good has no say about others' tokens either.
    for own_token in ("forged-token-123456", "member-token-123456"):
        async with checking(Identity(), FakeClock(), own_token=own_token) as checker:
            with pytest.raises(Unavailable):
                await checker.check(new_token())

"""The route of live updates (server-sent events)."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from cairn_common.auth import Role, require
from cairn_common.errors import InvalidArgument, PermissionDenied, Reason
from cairn_common.ids import check_id
from cairn_gateway.feed import TYPES, Watch
from cairn_gateway.http.door import caller_of
from cairn_gateway.http.limits import MOST_STREAMS, MOST_STREAMS_EACH, Lifetime, Load
from cairn_gateway.http.request import query
from cairn_gateway.live import Live, Position, frame
from cairn_gateway.upstream import Caller

_PARAMETERS = frozenset({"run", "job", "types"})


class Events:
    """Answers with streams of events."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._load = Load(most=MOST_STREAMS, most_each=MOST_STREAMS_EACH, what="event streams")

    async def __call__(self, request: Request) -> Response:
        """Everything that can be refused is refused here, before the stream begins."""
        caller = caller_of(request)
        if caller.principal.is_run:
            raise PermissionDenied("a run's token cannot watch its team", reason=Reason.SCOPE_TOO_LOW)
        team = check_id(request.path_params["team"], "team")
        require(caller.principal, team, Role.VIEWER)
        watch = read_watch(request, team)
        position, missed = await self._live.begin(request.headers.get("last-event-id", ""))
        return EventStream(
            self._live, self._load, caller=caller, watch=watch, position=position, missed=missed
        )


class EventStream(Response):
    """A response that ends when the client leaves, or the gateway does."""

    def __init__(
        self, live: Live, load: Load, *, caller: Caller, watch: Watch, position: Position, missed: bool
    ) -> None:
        super().__init__(status_code=200, headers={"X-Accel-Buffering": "no"}, media_type="text/event-stream")
        del self.headers["content-length"]
        self._live = live
        self._load = load
        self._caller = caller
        self._watch = watch
        self._position = position
        self._missed = missed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def write(data: bytes) -> None:
            await send({"type": "http.response.body", "body": data, "more_body": True})

        async def gone() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass

        with self._load.slot(self._caller.token):
            lifetime: Lifetime = scope["state"]["lifetime"]
            lifetime.endless()
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            first = frame(self._position, "reset" if self._missed else "ready", b"{}")
            await write(b"retry: 1000\n" + first)
            if await self._live.follow(
                self._caller, self._watch, position=self._position, write=write, gone=gone()
            ):
                await send({"type": "http.response.body", "body": b"", "more_body": False})


def read_watch(request: Request, team: str) -> Watch:
    """What the query asks for. Raises InvalidArgument."""
    given = query(request, _PARAMETERS)
    uids = {text.rpartition("/")[2] for name in ("run", "job") for text in given.get(name, ())}
    types = {part for text in given.get("types", ()) for part in text.split(",") if part}
    unknown = sorted(types - TYPES)
    if unknown:
        raise InvalidArgument(
            f"types: {unknown[0][:80]!r} is none of {', '.join(sorted(TYPES))}", path="types"
        )
    return Watch(team=team, uids=frozenset(uids), types=frozenset(types))

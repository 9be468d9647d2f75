"""What a request may take: which hosts and paths it may name, how many at a time, for how long."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from cairn_common.errors import DeadlineExceeded, Reason, ResourceExhausted, Unavailable
from cairn_common.rate import Rates
from cairn_gateway.http.address import Networks, client_address
from cairn_gateway.problems import HttpError

REQUEST_SECONDS = 30.0
MOST_REQUESTS = 256
MOST_REQUESTS_EACH = 64
# What all tokens of one team have together: half, so that a team with many tokens leaves room for others.
MOST_REQUESTS_TEAM = 128
# By which people come in without a token, and by one address.
MOST_ENTRIES = 96
MOST_ENTRIES_EACH = 32
MOST_STREAMS = 1000
MOST_STREAMS_EACH = 32
LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})


class Load:
    """Counts what is in flight: all of it, and each caller's share."""

    def __init__(self, *, most: int, most_each: int, what: str, whose: str = "token") -> None:
        self._most = most
        self._most_each = most_each
        self._what = what
        self._whose = whose
        self._each: Counter[str] = Counter()

    @contextmanager
    def slot(self, caller: str) -> Iterator[None]:
        """Room for one. Raises ResourceExhausted for the caller's own limit, Unavailable for everybody's."""
        if self._each[caller] >= self._most_each:
            raise ResourceExhausted(
                f"{self._most_each} {self._what} at a time is the most for one {self._whose}; wait for "
                "one to end",
                reason=Reason.RATE_EXCEEDED,
            )
        if self._each.total() >= self._most:
            raise Unavailable(
                f"{self._most} {self._what} are in flight, the most here; try again", reason=Reason.OVERLOADED
            )
        self._each[caller] += 1
        try:
            yield
        finally:
            self._each[caller] -= 1
            if not self._each[caller]:
                del self._each[caller]


def shares_of_teams() -> Load:
    """Counts what is in flight of each team, in all that the door answers."""
    return Load(most=2 * MOST_REQUESTS, most_each=MOST_REQUESTS_TEAM, what="requests", whose="team")


class Limits:
    """An ASGI application around the routes: host, path, load, time."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        hosts: Iterable[str],
        rates: Rates,
        entries: frozenset[tuple[str, str]] = frozenset(),
        proxies: Networks = (),
        seconds: float = REQUEST_SECONDS,
        refuse_path: Callable[[str, bytes], None] | None = None,
    ) -> None:
        """`entries`: method and path of what needs no token. `proxies` are believed.

        `refuse_path` raises for a path that may not be; without it `check_path` does."""
        self.app = app
        self._hosts = frozenset(hosts)
        self._rates = rates
        self._entries = entries
        self._proxies = proxies
        self._seconds = seconds
        self._refuse_path = refuse_path or check_path
        self._load = Load(most=MOST_REQUESTS, most_each=MOST_REQUESTS_EACH, what="requests")
        self._entering = Load(
            most=MOST_ENTRIES, most_each=MOST_ENTRIES_EACH, what="requests to come in", whose="address"
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        if scope["path"] != "/healthz":
            check_host(headers.getlist("host"), self._hosts)
        self._refuse_path(scope["path"], scope.get("raw_path", b""))
        lifetime = Lifetime()
        scope["state"]["lifetime"] = lifetime
        with lifetime.held:
            # Who comes in may say anything: that takes room of their address, and none of those who are in.
            entering = (scope["method"], scope["path"]) in self._entries
            who = (not entering and _caller(headers)) or client_address(scope, self._proxies)
            self._rates.take(who)
            lifetime.held.enter_context((self._entering if entering else self._load).slot(who))
            try:
                async with asyncio.timeout(self._seconds) as lifetime.limit:
                    await self.app(scope, receive, send)
            except TimeoutError:
                if not lifetime.expired:
                    raise
                raise DeadlineExceeded(f"no answer within {self._seconds:g} s") from None


def _caller(headers: Headers) -> str:
    """Whose share of the room a request takes: its token, however it is written around that."""
    given = headers.get("authorization", "").split()
    return given[-1] if given else headers.get("cookie", "").partition(";")[0].strip()


class Lifetime:
    """How long a request may live; a stream of events frees itself of it."""

    limit: asyncio.Timeout

    def __init__(self) -> None:
        self.held = ExitStack()

    @property
    def expired(self) -> bool:
        """Whether the time ran out."""
        return self.limit.expired()

    def endless(self) -> None:
        """Lets this request go on for as long as it likes, outside the count of requests."""
        self.limit.reschedule(None)
        self.held.close()


def hosts_of(public_url: str, more: str) -> frozenset[str]:
    """Names that a Host header may have, lower case and without a port."""
    named = urlsplit(public_url).hostname or ""
    if ":" in named:
        named = f"[{named}]"
    others = (name.strip().lower() for name in more.split(","))
    return LOOPBACK | {name for name in (named, *others) if name}


def check_host(given: list[str], allowed: frozenset[str]) -> None:
    """Holds that the caller means this server: a page elsewhere can make its own name lead here (DNS
    rebinding), but not change what the browser says it asked for. Raises HttpError (421)."""
    name = host_name(given[0]) if len(given) == 1 else ""
    if name not in allowed:
        raise HttpError(
            421,
            "HOST_REFUSED",
            f"this server is not {name or 'nameless'!r}; CAIRN_ALLOWED_HOSTS lists its names",
        )


def host_name(text: str) -> str:
    """A Host header without its port, lower case; empty for what is none."""
    text = text.strip().lower()
    if text.startswith("["):
        name, bracket, rest = text.partition("]")
        return name + bracket if bracket and (not rest or rest.startswith(":")) else ""
    name, _, port = text.partition(":")
    return name.removesuffix(".") if not port or port.isdecimal() else ""


def check_path(path: str, raw: bytes) -> None:
    """Holds that a path has one spelling: no empty, `.` or `..` parts, no hidden slashes or controls.

    Raises HttpError (404).
    """
    hidden = any(code in raw.lower() for code in (b"%2f", b"%5c", b"%2e"))
    parts = path.split("/")[1:]
    odd = path != "/" and any(part in ("", ".", "..") for part in parts)
    if odd or hidden or not path.isprintable() or "\\" in path:
        raise HttpError(404, "ROUTE_UNKNOWN", "there is no such path; paths have no empty parts and no dots")

"""JSON over HTTP with the standard library alone: kept-alive connections, deadlines, patient retries.

Every mutating call of Cairn's API is safe to repeat (creates carry a ``request_id``), so a call that got no
answer is sent again until its patience ends.
"""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from cairn._connections import Connections, connection_to

Json = dict[str, Any]
Query = Mapping[str, str | int | Sequence[str] | None]

RETRIED_STATUS = frozenset({429, 502, 503, 504})
CONNECTION_ERRORS = (OSError, http.client.HTTPException)
MAX_ANSWER = 64 * 2**20
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0


class ApiError(Exception):
    """The server answered with an error.

    ``reason`` is the constant from Cairn's list of reasons (``JOB_NOT_FOUND``), ``detail`` the sentence for
    people, ``metadata`` what the sentence speaks of.
    """

    def __init__(
        self,
        *,
        status: int,
        reason: str,
        detail: str,
        metadata: Mapping[str, str] | None = None,
        request_id: str = "",
        retry_after: float | None = None,
    ) -> None:
        super().__init__(f"{detail} ({reason})" if reason else detail)
        self.status = status
        self.reason = reason
        self.detail = detail
        self.metadata = dict(metadata or {})
        self.request_id = request_id
        self.retry_after = retry_after


class Unreachable(Exception):
    """No answer from the server within the call's patience."""

    def __init__(self, url: str, cause: BaseException | None) -> None:
        super().__init__(f"cannot reach {url}: {cause or 'no answer'}")
        self.url = url
        self.cause = cause


@dataclass(frozen=True, slots=True)
class Event:
    """Something that the event stream said. ``open`` and ``heartbeat`` are the reader's own types."""

    type: str
    data: Json = field(default_factory=dict)
    id: str = ""


class Api:
    """Cairn's HTTP API at one address, for one bearer.

    ``token`` may be a function: a run's token is renewed while the run goes on. ``timeout`` bounds the wait
    for one answer and ``patience`` the whole call with its retries, both in seconds. Threads may share it.
    """

    def __init__(
        self, url: str, token: str | Callable[[], str] = "", *, timeout: float = 30.0, patience: float = 20.0
    ) -> None:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is no http(s) address; it looks like http://127.0.0.1:8080")
        self.url = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
        self.timeout = timeout
        self.patience = patience
        self._prefix = parts.path.rstrip("/")
        self._token = token
        self._connections = Connections()

    def get(self, path: str, query: Query | None = None, *, patience: float | None = None) -> Json:
        """The resource at ``path``. Raises `ApiError`, `Unreachable`."""
        return self.request("GET", path, query=query, patience=patience)

    def post(self, path: str, body: Json | None = None, *, patience: float | None = None) -> Json:
        """Sends ``body``; safe to repeat, so it is repeated. Raises `ApiError`, `Unreachable`."""
        return self.request("POST", path, body=body or {}, patience=patience)

    def patch(self, path: str, body: Json, *, patience: float | None = None) -> Json:
        """Changes the resource at ``path``. Raises `ApiError`, `Unreachable`."""
        return self.request("PATCH", path, body=body, patience=patience)

    def pages(
        self, path: str, key: str, query: Query | None = None, *, limit: int | None = None
    ) -> Iterator[Json]:
        """The resources under ``key`` of every page, at most ``limit``."""
        seen, token = 0, ""
        while True:
            page = self.get(path, {**(query or {}), "page_token": token or None})
            for item in page.get(key, []):
                if limit is not None and seen >= limit:
                    return
                seen += 1
                yield item
            token = page.get("next_page_token", "")
            if not token or (limit is not None and seen >= limit):
                return

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        body: Json | None = None,
        patience: float | None = None,
    ) -> Json:
        """One call with its retries: connection errors, 429, 502, 503 and 504 are tried again."""
        target = self._prefix + path + encode_query(query)
        payload = None if body is None else json.dumps(body).encode()
        pauses = Pauses(self.patience if patience is None else patience)
        while True:
            failure: ApiError | Unreachable
            try:
                return self._once(method, target, payload, timeout=min(self.timeout, pauses.left()))
            except ApiError as error:
                if error.status not in RETRIED_STATUS:
                    raise
                failure = error
                at_least = error.retry_after
            except CONNECTION_ERRORS as error:
                self.close()
                failure = Unreachable(self.url, error)
                at_least = None
            if not pauses.pause(at_least=at_least):
                raise failure

    def _once(self, method: str, target: str, payload: bytes | None, *, timeout: float) -> Json:
        connection = self._connections.take(self.url, timeout=timeout)
        try:
            connection.request(
                method, target, body=payload, headers=self.headers(json_body=payload is not None)
            )
            response = connection.getresponse()
            raw = response.read(MAX_ANSWER)
        except BaseException:
            connection.close()
            raise
        self._connections.give(self.url, connection)
        return self._understood(response, raw)

    def _understood(self, response: http.client.HTTPResponse, raw: bytes) -> Json:
        if response.status >= 300:
            raise error_of(response, raw)
        if not raw:
            return {}
        try:
            answer = json.loads(raw)
        except ValueError:
            raise ApiError(
                status=response.status,
                reason="NOT_JSON",
                detail=f"{self.url} does not answer as Cairn does; is this the address of a Cairn gateway?",
            ) from None
        return answer if isinstance(answer, dict) else {"value": answer}

    def headers(self, *, json_body: bool = False) -> dict[str, str]:
        """What each request carries."""
        headers = {"Accept": "application/json", "User-Agent": "cairn-sdk/0.1"}
        token = self.token()
        if token:
            headers["Authorization"] = f"Bearer {token}"
        if json_body:
            headers["Content-Type"] = "application/json"
        return headers

    def token(self) -> str:
        """The bearer's token as it is now."""
        return self._token() if callable(self._token) else self._token

    def connect(self, *, timeout: float) -> http.client.HTTPConnection:
        """A connection of the caller's own."""
        return connection_to(self.url, timeout=timeout)

    def target(self, path: str, query: Query | None = None) -> str:
        """``path`` as it is asked for on the server."""
        return self._prefix + path + encode_query(query)

    def close(self) -> None:
        """Closes idle connections; the next call opens a new one."""
        self._connections.close()


class Pauses:
    """The waits between tries: doubling, with full jitter, ending after ``patience`` seconds."""

    def __init__(self, patience: float, *, stop: threading.Event | None = None) -> None:
        self._end = time.monotonic() + patience
        self._next = FIRST_PAUSE
        self._stop = stop

    def left(self) -> float:
        """Seconds until patience ends, at least a little: a first try is always made."""
        return max(self._end - time.monotonic(), 1.0)

    def pause(self, *, at_least: float | None = None) -> bool:
        """Waits; False, at once, where the wait would pass the end."""
        length = max(at_least or 0.0, random.uniform(self._next / 2, self._next))  # noqa: S311
        self._next = min(self._next * 2, LONGEST_PAUSE)
        if time.monotonic() + length > self._end:
            return False
        if self._stop is not None:
            return not self._stop.wait(length)
        time.sleep(length)
        return True


def encode_query(query: Query | None) -> str:
    """``?a=1&b=2``; None is left out and a list gives one pair each."""
    pairs: list[tuple[str, str]] = []
    for key, value in (query or {}).items():
        if value is None:
            continue
        values = [str(value)] if isinstance(value, str | int) else [str(each) for each in value]
        pairs.extend((key, each) for each in values)
    return "?" + urlencode(pairs) if pairs else ""


def segment(value: str) -> str:
    """``value`` as one piece of a path."""
    return quote(value, safe="")


def error_of(response: http.client.HTTPResponse, raw: bytes) -> ApiError:
    """The error that an answer of problem+json states; other answers give their status."""
    try:
        problem = json.loads(raw)
    except ValueError:
        problem = None
    if not isinstance(problem, dict):
        problem = {}
    return ApiError(
        status=response.status,
        reason=str(problem.get("reason") or ""),
        detail=str(
            problem.get("detail") or problem.get("title") or f"HTTP {response.status} {response.reason}"
        ),
        metadata={str(key): str(value) for key, value in (problem.get("metadata") or {}).items()},
        request_id=str(problem.get("request_id") or ""),
        retry_after=_seconds(response.headers.get("Retry-After")),
    )


def _seconds(value: str | None) -> float | None:
    try:
        return None if value is None else max(0.0, float(value))
    except ValueError:
        return None

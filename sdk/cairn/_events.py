"""The gateway's event stream (SSE), read for ever: a broken connection is taken up where it broke."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator

from cairn._http import CONNECTION_ERRORS, RETRIED_STATUS, Api, Event, Pauses, Query, Unreachable, error_of

# The server says something every 15 s; twice that and more without a byte means that it is gone.
SILENCE = 40.0


def events(
    api: Api,
    path: str,
    query: Query | None = None,
    *,
    last_id: str = "",
    patience: float = 60.0,
    stop: threading.Event | None = None,
) -> Iterator[Event]:
    """Yields events until ``stop`` is set or the caller goes away.

    First, and after each reconnection, comes ``Event("open")``: what the caller reads then, it reads after
    it began to listen, so that nothing falls in between. Comments of the server come as ``heartbeat``.
    Raises `Unreachable` when there was no connection for ``patience`` seconds, `ApiError` where refused.
    """
    pauses = Pauses(patience, stop=stop)
    while stop is None or not stop.is_set():
        failure: BaseException | None = None
        connection = api.connect(timeout=SILENCE)
        try:
            for event in _listen(api, connection, api.target(path, query), last_id):
                last_id = event.id or last_id
                pauses = Pauses(patience, stop=stop)
                yield event
                if stop is not None and stop.is_set():
                    return
        except CONNECTION_ERRORS as error:
            failure = error
        finally:
            connection.close()
        if not pauses.pause():
            if stop is not None and stop.is_set():
                return
            raise Unreachable(api.url, failure)


def _listen(api: Api, connection: http.client.HTTPConnection, target: str, last_id: str) -> Iterator[Event]:
    headers = api.headers() | {"Accept": "text/event-stream", "Cache-Control": "no-cache"}
    if last_id:
        headers["Last-Event-ID"] = last_id
    connection.request("GET", target, headers=headers)
    response = connection.getresponse()
    if response.status != 200:
        error = error_of(response, response.read(1 << 20))
        if error.status in RETRIED_STATUS:
            raise http.client.HTTPException(str(error))
        raise error
    yield Event("open")
    yield from parse(response)


def parse(stream: Iterator[bytes] | http.client.HTTPResponse) -> Iterator[Event]:
    """Events of an SSE byte stream, line by line."""
    kind, ident, data = "", "", list[str]()
    for raw in stream:
        line = raw.decode("utf-8", "replace").rstrip("\r\n")
        if not line:
            if data or kind:
                yield Event(kind or "message", _object("\n".join(data)), ident)
            kind, data = "", []
        elif line.startswith(":"):
            yield Event("heartbeat", id=ident)
        else:
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if name == "event":
                kind = value
            elif name == "data":
                data.append(value)
            elif name == "id":
                ident = value


def _object(text: str) -> dict[str, object]:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {"value": value}

"""The HTTP client against a real server that misbehaves in the ways that servers do."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

import pytest

from cairn._events import events, parse
from cairn._http import Api, ApiError, Unreachable, encode_query

Answer = Callable[[BaseHTTPRequestHandler], None]


class Seen(NamedTuple):
    """A request as it came; the port tells connections apart."""

    path: str
    headers: dict[str, str]
    port: int


class Server:
    """Answers the n-th request by the n-th function, the last one for all that come after."""

    def __init__(self, *answers: Answer) -> None:
        self.requests: list[Seen] = []
        self.bodies: list[bytes] = []
        self._answers = answers
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                number = len(outer.requests)
                outer.requests.append(Seen(self.path, dict(self.headers), self.client_address[1]))
                outer.bodies.append(self.rfile.read(int(self.headers.get("Content-Length") or 0)))
                outer._answers[min(number, len(outer._answers) - 1)](self)

            do_POST = do_PATCH = do_GET

            def log_message(self, format: str, *args: Any) -> None:
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@contextmanager
def serving(*answers: Answer) -> Iterator[Server]:
    server = Server(*answers)
    try:
        yield server
    finally:
        server.close()


def says(status: int, body: Any = None, **headers: str) -> Answer:
    def answer(request: BaseHTTPRequestHandler) -> None:
        raw = body if isinstance(body, bytes) else json.dumps(body if body is not None else {}).encode()
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name.replace("_", "-"), value)
        request.send_header("Content-Length", str(len(raw)))
        request.end_headers()
        request.wfile.write(raw)

    return answer


def hangs_up(request: BaseHTTPRequestHandler) -> None:
    request.close_connection = True
    request.connection.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("trouble", [says(503), says(502), says(504), says(429, Retry_After="0"), hangs_up])
def test_a_call_is_sent_again_until_it_is_answered(trouble: Answer) -> None:
    with serving(trouble, trouble, says(200, {"fine": 1})) as server:
        api = Api(server.url, "secret")
        assert api.post("/things", {"request_id": "r1"}) == {"fine": 1}
        assert server.bodies == [b'{"request_id": "r1"}'] * 3
        assert server.requests[-1].headers["Authorization"] == "Bearer secret"
        api.close()


def test_a_connection_is_kept_and_one_that_the_server_closed_meanwhile_is_replaced() -> None:
    def closes_after(request: BaseHTTPRequestHandler) -> None:
        says(200)(request)
        request.close_connection = True  # without having said so

    with serving(says(200), closes_after, says(200)) as server:
        api = Api(server.url)
        for _ in range(3):
            api.get("/x")
        first, second, third = (request.port for request in server.requests)
        assert first == second != third
        api.close()


def test_an_error_carries_its_reason_and_is_not_tried_again() -> None:
    problem = {"detail": "no job 7", "reason": "JOB_NOT_FOUND", "metadata": {"job": "7"}, "request_id": "q"}
    with serving(says(404, problem)) as server:
        with pytest.raises(ApiError, match="no job 7") as refused:
            Api(server.url).get("/jobs/7")
        error = refused.value
        assert (error.status, error.reason, error.metadata, error.request_id) == (
            404,
            "JOB_NOT_FOUND",
            {"job": "7"},
            "q",
        )
        assert len(server.requests) == 1


def test_patience_ends() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        with pytest.raises(Unreachable, match="cannot reach"):
            Api(url, patience=0.3).get("/")
    with serving(says(503, {"detail": "starting"})) as server, pytest.raises(ApiError, match="starting"):
        Api(server.url, patience=0.3).get("/")


def test_what_is_no_cairn_is_said_to_be_none() -> None:
    with serving(says(200, b"<html>")) as server, pytest.raises(ApiError, match="a Cairn gateway"):
        Api(server.url).get("/")
    with pytest.raises(ValueError, match="looks like http"):
        Api("ftp://host")


def test_the_token_is_asked_for_at_each_call() -> None:
    tokens = iter(["one", "two"])
    with serving(says(200)) as server:
        api = Api(server.url + "/below/", lambda: next(tokens))
        api.get("/a", {"state": ["X", "Y"], "none": None, "n": 3})
        api.get("/a")
        assert [request.headers["Authorization"] for request in server.requests] == [
            "Bearer one",
            "Bearer two",
        ]
        assert server.requests[0].path == "/below/a?state=X&state=Y&n=3"
        api.close()


def test_pages_are_read_to_the_end_or_to_the_limit() -> None:
    pages = (
        says(200, {"jobs": [{"n": 1}, {"n": 2}], "next_page_token": "t"}),
        says(200, {"jobs": [{"n": 3}]}),
    )
    for limit, expected in ((None, [1, 2, 3]), (2, [1, 2]), (3, [1, 2, 3])):
        with serving(*pages) as server:
            api = Api(server.url)
            assert [job["n"] for job in api.pages("/jobs", "jobs", limit=limit)] == expected
            assert len(server.requests) == (1 if limit == 2 else 2)
            api.close()


def streams(*lines: bytes) -> Answer:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Type", "text/event-stream")
        request.send_header("Connection", "close")
        request.end_headers()
        request.wfile.write(b"".join(lines))

    return answer


def test_a_broken_event_stream_goes_on_behind_the_last_event() -> None:
    one = b'id: 5-1\nevent: job.running\ndata: {"job": 1}\n\n'
    two = b': heartbeat\n\nid: 6-1\nevent: job.finished\ndata: {"job": 2}\n\n'
    with serving(streams(one, b"id: 9-9\nevent: torn\ndata: {"), hangs_up, says(503), streams(two)) as server:
        heard = []
        for event in events(Api(server.url, "t"), "/events"):
            heard.append((event.type, event.data.get("job")))
            if event.type == "job.finished":
                break
        assert heard == [
            ("open", None),
            ("job.running", 1),
            ("open", None),
            ("heartbeat", None),
            ("job.finished", 2),
        ]
        assert "Last-Event-ID" not in server.requests[0].headers
        assert [request.headers["Last-Event-ID"] for request in server.requests[1:]] == ["5-1"] * 3


def test_a_refused_event_stream_is_an_error_at_once() -> None:
    with serving(says(401, {"detail": "who?", "reason": "TOKEN_INVALID"})) as server:
        with pytest.raises(ApiError, match="who"):
            next(events(Api(server.url), "/events"))
        assert len(server.requests) == 1


def test_events_of_several_lines_and_without_json() -> None:
    raw = [b"event: a\r\n", b"data: {\r\n", b'data: "x": 1}\r\n', b"\r\n", b"data: no json\n", b"\n"]
    assert [(event.type, event.data) for event in parse(iter(raw))] == [("a", {"x": 1}), ("message", {})]
    assert encode_query(None) == ""

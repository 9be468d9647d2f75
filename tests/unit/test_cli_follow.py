"""Following a job from its first moment, when its run is not made yet."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from cairn._cli.follow import Shown, drain
from cairn._http import ApiError
from cairn.client import Client


@contextmanager
def answering(*answers: tuple[int, dict[str, Any]]) -> Iterator[str]:
    """A server that gives these answers in turn."""
    waiting = list(answers)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = waiting.pop(0)
            raw = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, format: str, *args: Any) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_a_job_whose_run_is_not_made_yet_has_no_lines_for_now() -> None:
    lines = [{"text": "first", "number": 1}]
    told: list[dict[str, Any]] = []
    with answering(
        (404, {"reason": "RUN_NOT_FOUND", "detail": "there is no run"}),
        (200, {"lines": lines, "cursor": "1", "complete": True}),
    ) as url:
        client = Client(url, "token", "main")
        assert drain(client, "a", "", Shown(), told.extend) == ("", False)
        assert drain(client, "a", "", Shown(), told.extend) == ("1", True)
    assert told == lines


def test_other_refusals_are_told() -> None:
    with (
        answering((404, {"reason": "TEAM_NOT_FOUND", "detail": "there is no team"})) as url,
        pytest.raises(ApiError, match="no team"),
    ):
        drain(Client(url, "token", "main"), "a", "", Shown(), print)

"""Coming in by the browser of this machine: it brings a code to a port that only this machine reaches."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import platform
import queue
import re
import secrets
import sys
import threading
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlencode, urlsplit

from rich.text import Text

from cairn._cli.errors import NOT_ALLOWED, CliError
from cairn._cli.session import Session
from cairn.client import Client

_WAIT_SECONDS = 300.0
_PAGE = (
    "<!doctype html><meta charset=utf-8><title>Cairn</title>"
    "<body style='font:16px system-ui;margin:4em auto;max-width:30em'><h1>{}</h1>"
    "<p>You can close this page.</p>"
)


def come_in(session: Session, nobody: Client) -> str | None:
    """The secret of a session; None where there is no browser to open here. Raises `CliError`, `ApiError`."""
    opener = _browser()
    if opener is None:
        return None
    state, verifier = secrets.token_urlsafe(24), secrets.token_urlsafe(48)
    digest = hashlib.sha256(verifier.encode()).digest()
    with _listening(state) as (port, answers):
        asked = {
            "port": port,
            "state": state,
            "challenge": base64.urlsafe_b64encode(digest).rstrip(b"=").decode(),
            # As it may stand in the address of a view.
            "on": re.sub(r"[^A-Za-z0-9._-]", "", platform.node())[:40] or "this-computer",
        }
        page = f"{nobody.url}/#/loopback?{urlencode(asked)}"
        session.say(Text(f"in your browser, let this command line in; else open\n{page}"))
        if not opener.open(page):
            return None
        try:
            code = answers.get(timeout=_WAIT_SECONDS)
        except queue.Empty:
            raise CliError(
                "nobody has let it in within 5 minutes", code=NOT_ALLOWED,
                hint="run it again; without a browser: cairn login --device",
            ) from None  # fmt: skip
    if not code:
        raise CliError("the browser says no; nobody was let in", code=NOT_ALLOWED)
    redirect = f"http://127.0.0.1:{port}/callback"
    return str(nobody.finish_loopback(code, verifier=verifier, redirect_uri=redirect).get("secret", ""))


@contextmanager
def _listening(state: str) -> Iterator[tuple[int, queue.Queue[str]]]:
    """A port of this machine alone, and the code that comes there once; an empty one is a no."""
    answers: queue.Queue[str] = queue.Queue(maxsize=1)

    class Handler(BaseHTTPRequestHandler):
        timeout = 10

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            query = {name: values[0] for name, values in parse_qs(parts.query).items()}
            # By another name this address is another site's, whose page may read the answer.
            own = self.headers.get("Host", "") == f"127.0.0.1:{self.connection.getsockname()[1]}"
            known = hmac.compare_digest(query.get("state", "").encode(), state.encode())
            if not own or parts.path != "/callback" or not known:
                self._say(404, "This is nothing.")
                return
            code = query.get("code", "")
            self._say(200, "You are in." if code else "Nobody was let in.")
            try:
                answers.put_nowait(code)
            except queue.Full:
                # It comes once; a page that is loaded again changes nothing.
                return

        def _say(self, status: int, words: str) -> None:
            body = _PAGE.format(words).encode()
            self.send_response(status)
            for name, value in (
                ("Content-Type", "text/html; charset=utf-8"),
                ("Content-Length", str(len(body))),
                ("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'"),
                ("Referrer-Policy", "no-referrer"),
                ("Cache-Control", "no-store"),
                ("Connection", "close"),
            ):
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """The address has the code in it."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server.server_port, answers
    finally:
        server.shutdown()
        server.server_close()


def _browser() -> webbrowser.BaseBrowser | None:
    """What opens pages here; None where nobody would see them."""
    screen = sys.platform in ("darwin", "win32") or any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")
    )
    if not screen:
        return None
    try:
        return webbrowser.get()
    except webbrowser.Error:
        return None

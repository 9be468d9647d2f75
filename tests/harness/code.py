"""Code archives, safe and hostile, and a server that gives them as the gateway does."""

from __future__ import annotations

import gzip
import http.server
import io
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any


@dataclass
class CodeServer:
    """Answers like the gateway: a redirect to where the archive is; first the status codes in `answers`."""

    archive: bytes = b""
    answers: list[int] = field(default_factory=list)
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    url: str = ""


def serve_code() -> Iterator[CodeServer]:
    """A running `CodeServer`, for a fixture."""
    state = CodeServer()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.asked.append((self.path, self.headers.get("Authorization")))
            if self.path.startswith("/store"):
                self.send_response(200)
                self.send_header("Content-Length", str(len(state.archive)))
                self.end_headers()
                self.wfile.write(state.archive)
            elif state.answers:
                self.send_error(state.answers.pop(0))
            else:
                self.send_response(307)
                self.send_header("Location", f"{state.url}/store?signature=1")
                self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        state.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield state
        server.shutdown()
        thread.join()


def archive(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    """A gzipped tar of these members with their contents."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        for member, content in members:
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return gzip.compress(raw.getvalue(), mtime=0)


def member(
    name: str, kind: bytes = tarfile.REGTYPE, linkname: str = "", mode: int = 0o644
) -> tarfile.TarInfo:
    """What `archive` takes: a file, or whatever `kind` says."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, linkname, mode
    return info

"""A provider of single sign-on that says whatever a test has it say: what no honest one does."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from joserfc import jwk, jwt

CLIENT = "cairn"


@dataclass
class Rogue:
    """What it answers next."""

    port: int = 0
    # Documents by path; bytes are sent as they are, an int is a status.
    answers: dict[str, Any] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    key: jwk.RSAKey = field(default_factory=lambda: rsa("one"))

    @property
    def issuer(self) -> str:
        """Its URL."""
        return f"http://127.0.0.1:{self.port}"

    def behave(self) -> None:
        """Says what an honest one says, but the id_token, which is a test's."""
        self.answers = {
            "/.well-known/openid-configuration": {
                "issuer": self.issuer,
                **{f"{end}_endpoint": f"{self.issuer}/{end}" for end in ("authorization", "token")},
                "jwks_uri": f"{self.issuer}/jwks",
                "id_token_signing_alg_values_supported": ["RS256", "ES256", "HS256", "none"],
            },
            "/jwks": {"keys": [self.key.as_dict(private=False)]},
        }

    def claims(self, expected: str, /, **other: Any) -> dict[str, Any]:
        """Those of a good id_token, less what is None here."""
        now = int(time.time())
        good = {
            "iss": self.issuer, "aud": CLIENT, "sub": "somebody", "exp": now + 300, "iat": now,
            "nonce": expected, "email": "rogue@lab.example", "email_verified": True,
        }  # fmt: skip
        return {name: value for name, value in (good | other).items() if value is not None}

    def gives(self, claims: dict[str, Any], *, key: jwk.Key | None = None, **header: Any) -> None:
        """Signs these claims, and gives the token for any code."""
        head = {"alg": "RS256", "kid": "one", **header}
        made = jwt.encode(head, claims, key or self.key, algorithms=[head["alg"]])
        self.gives_token(made)

    def gives_token(self, text: Any) -> None:
        """Gives this as the id_token for any code."""
        self.answers["/token"] = {"access_token": "x", "token_type": "Bearer", "id_token": text}


def rsa(kid: str) -> jwk.RSAKey:
    """A key of its own."""
    return jwk.RSAKey.generate_key(2048, {"kid": kid, "use": "sig"})


@contextmanager
def running() -> Iterator[Rogue]:
    """On loopback, for the block."""
    rogue = Rogue()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", "0")))
            rogue.asked.append(self.path)
            answer = rogue.answers.get(self.path, 404)
            status = answer if isinstance(answer, int) else 200
            body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(status)
            if 300 <= status < 400:
                self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            try:
                self.wfile.write(body)
            except OSError:
                pass  # who asked has read enough

        do_POST = do_GET

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    rogue.port = server.server_address[1]
    rogue.behave()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield rogue
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

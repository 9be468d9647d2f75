"""The page's cookies, that no script reads, and the proof that a request is the page's own."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser

from cairn_common.errors import PermissionDenied, Reason
from cairn_gateway.http.limits import host_name

CSRF = "x-csrf-token"
"""On answers to what only reads, and then on requests that change something."""
WANTED = "x-cairn-cookie"
"""On a request to sign in: keep the session's secret in a cookie, and out of the answer."""
_SAFE = frozenset({"GET", "HEAD"})


@dataclass(frozen=True, slots=True)
class Cookie:
    """How this gateway's cookie is written and read."""

    # Whether people come by https.
    secure: bool
    # What it holds: a session; or what ties a login at a provider to this browser, and has to come along when
    # that sends it back.
    of_login: bool = False

    @property
    def name(self) -> str:
        """With `__Host-` a browser takes it from nobody but this very host."""
        if self.of_login:
            return "__Host-cairn-login" if self.secure else "cairn_login"
        return "__Host-cairn" if self.secure else "cairn_session"

    def secret(self, headers: Headers) -> str:
        """What it holds, or an empty text."""
        given = headers.getlist("cookie")
        return cookie_parser(given[0]).get(self.name, "") if len(given) == 1 else ""

    def set(self, headers: MutableHeaders, secret: str, *, seconds: int) -> None:
        """Has the browser keep it; an empty secret has it forget."""
        site = "Lax" if self.of_login else "Strict"
        written = f"{self.name}={secret}; Path=/; Max-Age={seconds}; HttpOnly; SameSite={site}"
        headers.append("Set-Cookie", written + ("; Secure" if self.secure else ""))


def proof(secret: str) -> str:
    """What only who reads this gateway's answers knows: derived from the secret, and no way back to it."""
    return hmac.new(secret.encode(), b"cairn csrf", hashlib.sha256).hexdigest()


def check_own(method: str, headers: Headers, secret: str, hosts: frozenset[str]) -> None:
    """Holds that a request with a cookie was made by this gateway's own page. Raises PermissionDenied."""
    if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise _forged("another site asks")
    if not _is_own(headers.get("origin"), hosts):
        raise _forged("another site asks")
    if method not in _SAFE and not hmac.compare_digest(
        headers.get(CSRF, "").encode(), proof(secret).encode()
    ):
        raise _forged(f"the header {CSRF} of an earlier answer has to come back")


def _is_own(origin: str | None, hosts: frozenset[str]) -> bool:
    try:
        return origin is None or host_name(urlsplit(origin).netloc) in hosts
    except ValueError:
        return False


def _forged(why: str) -> PermissionDenied:
    return PermissionDenied(
        f"This session is the page's own, and {why}. Programs send `Authorization: Bearer <token>`.",
        reason=Reason.REQUEST_FORGED,
    )

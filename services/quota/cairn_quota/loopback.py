"""What a command line may ask for that a browser on the same machine lets in (RFC 8252, 7636). Pure."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from urllib.parse import urlencode

from cairn_quota import checks

# No name: what `localhost` leads to, others may say. A port that takes no rights to listen at.
_REDIRECT = re.compile(r"http://(?:127\.0\.0\.1|\[::1\]):([1-9][0-9]{3,4})/callback")
_STATE = re.compile(r"[A-Za-z0-9_-]{16,128}")
_CHALLENGE = re.compile(r"[A-Za-z0-9_-]{43}")
_VERIFIER = re.compile(r"[A-Za-z0-9._~-]{43,128}")


def redirect_uri(text: str) -> str:
    """Where the browser brings the code: this very machine, by its number. Raises InvalidArgument."""
    match = _REDIRECT.fullmatch(text)
    if match is None or not 1024 <= int(match[1]) <= 65535:
        raise checks.invalid(
            "redirect_uri", "must be http://127.0.0.1:PORT/callback (or [::1]), PORT from 1024 on"
        )
    return text


def state(text: str) -> str:
    """What the command line knows its own login by. Raises InvalidArgument."""
    if _STATE.fullmatch(text) is None:
        raise checks.invalid("state", "must be 16 to 128 of A-Z, a-z, 0-9, - and _")
    return text


def challenge(text: str) -> str:
    """SHA-256 of the verifier, in base64url. Raises InvalidArgument."""
    if _CHALLENGE.fullmatch(text) is None:
        raise checks.invalid(
            "code_challenge", "must be the verifier's SHA-256 (S256), in base64url without ="
        )
    return text


def proves(verifier: str, challenge: str) -> bool:
    """Whether this is what the challenge was made of."""
    if _VERIFIER.fullmatch(verifier) is None:
        return False
    digest = hashlib.sha256(verifier.encode()).digest()
    made = base64.urlsafe_b64encode(digest).rstrip(b"=")
    return hmac.compare_digest(made, challenge.encode())


def url(redirect: str, *, code: str, state: str) -> str:
    """Where the browser goes now."""
    return f"{redirect}?{urlencode({'code': code, 'state': state})}"

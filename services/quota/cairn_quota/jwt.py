"""The little of NATS's JWTs that the auth callout needs: read a server's request, sign an answer.

They never leave the NATS servers; people and jobs carry opaque tokens.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import nkeys
from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey

HEADER = {"typ": "JWT", "alg": "ed25519-nkey"}
_SERVER = 13 << 3
_KEY_BYTES = 32
# Of one connection: a client needs one, for its inbox. Each costs the server memory.
_MOST_SUBSCRIPTIONS = 32


@dataclass(frozen=True, slots=True)
class ConnectRequest:
    """Somebody connects: what the server tells of it."""

    server_id: str
    user_nkey: str
    token: str


def read_request(data: bytes) -> ConnectRequest:
    """The server's signed request, checked. Raises ValueError for anything that is not exactly that."""
    try:
        text = data.decode("ascii")
        head, body, signature = text.split(".")
        header, claims = json.loads(_decode(head)), json.loads(_decode(body))
        if header != HEADER or claims["aud"] != "nats-authorization-request":
            raise ValueError("not a request for an authorization")
        _server_key(claims["iss"]).verify(f"{head}.{body}".encode(), _decode(signature))
        request = claims["nats"]
        server, options = request["server_id"], request["connect_opts"]
        if request["type"] != "authorization_request" or server["id"] != claims["iss"]:
            raise ValueError("not the server's own request")
        made = ConnectRequest(
            server_id=server["id"], user_nkey=request["user_nkey"], token=options.get("auth_token", "")
        )
    except (KeyError, TypeError, AttributeError, RecursionError, binascii.Error, BadSignatureError) as error:
        raise ValueError(f"not an authorization request: {type(error).__name__}") from None
    if not isinstance(made.token, str) or not isinstance(made.user_nkey, str):
        raise ValueError("not an authorization request: a part is no text")
    return made


class Issuer:
    """Signs in the name of the account whose seed it holds."""

    def __init__(self, seed: str) -> None:
        self._key = nkeys.from_seed(seed.encode())
        self.account: str = self._key.public_key.decode()

    def user(
        self,
        *,
        user_nkey: str,
        name: str,
        account: str,
        publish: list[str],
        subscribe: list[str],
        now: datetime,
        expires: datetime,
    ) -> str:
        """A user of `account` with these permissions and no others, until `expires`."""
        claims = {
            "aud": account,
            "sub": user_nkey,
            "name": name,
            "exp": int(expires.timestamp()),
            "nats": {
                "type": "user",
                "version": 2,
                "pub": {"allow": publish},
                "sub": {"allow": subscribe},
                "subs": _MOST_SUBSCRIPTIONS,
                "data": -1,
                "payload": -1,
            },
        }
        return self._sign(claims, now)

    def answer(self, request: ConnectRequest, *, jwt: str = "", error: str = "", now: datetime) -> bytes:
        """The answer that the server waits for: a user's JWT or an error."""
        claims = {
            "aud": request.server_id,
            "sub": request.user_nkey,
            "nats": {"type": "authorization_response", "version": 2, "jwt": jwt, "error": error},
        }
        return self._sign(claims, now).encode()

    def _sign(self, claims: Mapping[str, Any], now: datetime) -> str:
        full = {**claims, "iss": self.account, "iat": int(now.timestamp())}
        full["jti"] = hashlib.sha256(_compact(full)).hexdigest()
        signed = f"{_encode(_compact(HEADER))}.{_encode(_compact(full))}"
        return f"{signed}.{_encode(self._key.sign(signed.encode()))}"


def _server_key(public: str) -> VerifyKey:
    raw = base64.b32decode(public + "=" * (-len(public) % 8))
    if len(raw) != 1 + _KEY_BYTES + 2 or raw[0] != _SERVER:
        raise ValueError("not a server's public key")
    return VerifyKey(raw[1 : 1 + _KEY_BYTES])


def _compact(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))

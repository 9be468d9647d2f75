"""The provider of single sign-on, asked over the network: discovery, keys, codes for claims."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NoReturn
from urllib.parse import quote_plus

import httpx
import structlog
from joserfc import jwk, jwt
from joserfc.errors import JoseError

from cairn_common.clock import Clock
from cairn_common.errors import Reason, Unavailable
from cairn_quota import oidc
from cairn_quota.oidc import Broken, Metadata, Party, Proven

WHOLE_SECONDS = 10.0
"""For one question, from the name's look-up to the last byte."""
MOST_BYTES = 512 * 1024
LEEWAY = timedelta(seconds=60)
"""By so much the provider's clock may go wrong."""
KEPT = timedelta(minutes=15)
"""Discovery and keys are asked for again after it: so long a key that was withdrawn is believed at most."""
_AGAIN = timedelta(seconds=10)
"""A key that is not known has the keys asked for again; not more often than this."""
_MOST_TOKEN = 64 * 1024
# A shared secret is no key here: none of these can have been made with what everybody can read.
_KINDS = ("RSA", "EC", "OKP")
log = structlog.get_logger()


@dataclass(slots=True)
class Kept:
    """What was read, and when."""

    value: Any
    time: datetime


@dataclass(slots=True)
class Provider:
    """One provider. What it says is kept for a while; a change of its keys is felt at once."""

    party: Party
    clock: Clock
    _metadata: Kept | None = None
    _keys: Kept | None = None
    # When an unknown key last had them asked for again.
    _asked: datetime | None = None
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def begin(self, *, state: str, binding: str) -> str:
        """Where a browser goes. Raises Unavailable/PROVIDER_UNAVAILABLE."""
        return oidc.begin_url(await self._described(), self.party, state=state, binding=binding)

    async def proven(self, *, code: str, state: str, binding: str, issuer: str) -> Proven:
        """Who somebody is who has come back with this code.

        Raises Unauthenticated/LOGIN_REFUSED for all that is not as it has to be, Unavailable.
        """
        metadata = await self._described()
        try:
            if issuer != self.party.issuer and (issuer or metadata.names_itself):
                raise Broken("another provider has sent the browser back")
            tokens = await self._redeemed(metadata, code, oidc.verifier(state, binding))
            claims = await self._verified(metadata, tokens.get("id_token"), nonce=oidc.nonce(state, binding))
            claims = {**await self._told(metadata, tokens.get("access_token"), claims), **claims}
            return oidc.proven_of(claims, self.party)
        except (Broken, JoseError, RecursionError) as error:
            # A claim's or an error's name, never a token.
            log.warning("oidc.refused", why=str(error)[:300])
            raise oidc.refused() from None

    async def _described(self) -> Metadata:
        async with self._lock:
            if self._metadata is None or self.clock.now() >= self._metadata.time + KEPT:
                url = self.party.issuer.rstrip("/") + "/.well-known/openid-configuration"
                try:
                    document = await self._document("GET", url)
                    self._metadata = Kept(oidc.metadata_of(document, self.party), self.clock.now())
                except Broken as error:
                    self._away(url, str(error))
            found: Metadata = self._metadata.value
            return found

    async def _redeemed(self, metadata: Metadata, code: str, verifier: str) -> Mapping[str, Any]:
        party = self.party
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": party.redirect_uri,
            "code_verifier": verifier,
        }
        headers = {}
        if not party.client_secret or metadata.secret_in_form:
            form["client_id"] = party.client_id
            form |= {"client_secret": party.client_secret} if party.client_secret else {}
        else:
            pair = f"{quote_plus(party.client_id)}:{quote_plus(party.client_secret)}"
            headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
        return await self._document("POST", metadata.token_endpoint, data=form, headers=headers)

    async def _verified(self, metadata: Metadata, token: Any, *, nonce: str) -> dict[str, Any]:
        """The claims of an id_token. Raises Broken, JoseError."""
        if not isinstance(token, str) or not 0 < len(token) <= _MOST_TOKEN:
            raise Broken("it gave no id_token")
        key = await self._key(metadata, token)
        claims: dict[str, Any] = jwt.decode(token, key, algorithms=list(metadata.algorithms)).claims
        jwt.JWTClaimsRegistry(
            now=int(self.clock.now().timestamp()),
            leeway=int(LEEWAY.total_seconds()),
            iss={"essential": True, "value": self.party.issuer},
            aud={"essential": True, "value": self.party.client_id},
            sub={"essential": True},
            exp={"essential": True},
            iat={"essential": True},
            nonce={"essential": True, "value": nonce},
        ).validate(claims)
        several = isinstance(claims["aud"], list) and len(claims["aud"]) > 1
        if (several or "azp" in claims) and claims.get("azp") != self.party.client_id:
            raise Broken("its id_token is for another party (azp)")
        return claims

    async def _told(
        self, metadata: Metadata, access_token: Any, claims: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """What it says beside the id_token of the same person, where that lacks something."""
        wanted = {"email", "email_verified", *filter(None, [self.party.groups_claim])}
        if wanted <= set(claims) or not metadata.userinfo_endpoint or not isinstance(access_token, str):
            return {}
        headers = {"Authorization": f"Bearer {access_token}"}
        told = await self._document("GET", metadata.userinfo_endpoint, headers=headers)
        if told.get("sub") != claims["sub"]:
            raise Broken("its userinfo is of somebody else")
        return told

    async def _key(self, metadata: Metadata, token: str) -> jwk.Key:
        """The key that a token says it was signed by. Raises Broken."""
        try:
            head = token.partition(".")[0]
            header = json.loads(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4)))
            kid = header.get("kid")
        except (ValueError, AttributeError):
            raise Broken("its id_token is none") from None
        found = _chosen(await self._published(metadata), kid)
        if found is None:
            found = _chosen(await self._published(metadata, unknown=True), kid)
        if found is None:
            raise Broken("its id_token was signed by a key that it does not publish")
        return found

    async def _published(self, metadata: Metadata, *, unknown: bool = False) -> list[jwk.Key]:
        """Its keys, asked for anew from time to time, and where one is not known."""
        async with self._lock:
            now = self.clock.now()
            asks = self._keys is None or now >= self._keys.time + KEPT
            if unknown and (self._asked is None or now >= self._asked + _AGAIN):
                asks, self._asked = True, now
            if asks:
                document = await self._document("GET", metadata.jwks_uri)
                self._keys = Kept(_keys_in(document), self.clock.now())
            assert self._keys is not None
            found: list[jwk.Key] = self._keys.value
            return found

    async def _document(
        self,
        method: str,
        url: str,
        *,
        data: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """One question, answered by a JSON object. Raises Broken where it says no, Unavailable."""
        sent = {"Accept": "application/json", "User-Agent": "cairn-oidc/1", **(headers or {})}
        body = bytearray()
        try:
            async with (
                asyncio.timeout(WHOLE_SECONDS),
                httpx.AsyncClient(
                    trust_env=False,
                    follow_redirects=False,
                    timeout=WHOLE_SECONDS,
                    verify=ssl.create_default_context(),
                ) as client,
                client.stream(method, url, data=data, headers=sent) as answer,
            ):
                async for piece in answer.aiter_bytes(16 * 1024):
                    body += piece
                    if len(body) > MOST_BYTES:
                        self._away(url, f"its answer is larger than {MOST_BYTES // 1024} KiB")
                status = answer.status_code
        except TimeoutError:
            self._away(url, f"no answer within {WHOLE_SECONDS:g} s")
        except (httpx.HTTPError, OSError) as error:
            self._away(url, f"the connection failed ({type(error).__name__})")
        try:
            document = json.loads(bytes(body))
        except (ValueError, RecursionError):
            document = None
        if 400 <= status < 500 and status != httpx.codes.TOO_MANY_REQUESTS:
            why = document.get("error") if isinstance(document, dict) else None
            raise Broken(f"{url} answered {status} {str(why or '')[:100]}")
        if status != httpx.codes.OK or not isinstance(document, dict):
            self._away(url, f"it answered {status}, and no JSON object")
        return document

    def _away(self, url: str, why: str) -> NoReturn:
        log.warning("oidc.away", url=url, why=why)
        raise Unavailable(
            "The provider of single sign-on does not answer as it should; try again, or come in another way.",
            reason=Reason.PROVIDER_UNAVAILABLE,
        )


def _keys_in(document: Mapping[str, Any]) -> list[jwk.Key]:
    """The keys for signatures; what is no such key is passed over."""
    found = []
    given = document.get("keys")
    for one in given[:100] if isinstance(given, list) else []:
        if not isinstance(one, dict) or one.get("kty") not in _KINDS or one.get("use", "sig") != "sig":
            continue
        try:
            found.append(jwk.import_key(one))
        except (JoseError, ValueError, TypeError, LookupError):
            # Also one of a curve that is not known here: others may do.
            log.warning("oidc.key_skipped", kid=str(one.get("kid"))[:100])
    return found


def _chosen(keys: list[jwk.Key], kid: Any) -> jwk.Key | None:
    """By its id; without one only where there is no choice."""
    if kid is None:
        return keys[0] if len(keys) == 1 else None
    return next((key for key in keys if key.get("kid") == kid), None)

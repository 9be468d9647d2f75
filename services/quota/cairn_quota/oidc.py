"""Single sign-on by OpenID Connect, pure: what the operator has set, what a provider says of itself and of
people, and what follows of it."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from types import MappingProxyType
from typing import Any
from urllib.parse import urlencode, urlsplit

from cairn_common.errors import InvalidArgument, PermissionDenied, Reason, Unauthenticated
from cairn_common.ids import check_id
from cairn_common.settings import SettingsError
from cairn_quota.model import Role
from cairn_quota.people import check_email
from cairn_quota.settings import QuotaSettings

CALLBACK = "/api/v1/oidc/callback"
"""Of the gateway, where the provider sends browsers back to."""
# None of them can be made with what the provider publishes.
ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "Ed25519")
_USUAL = ("RS256",)
_ROLES = {"viewer": Role.VIEWER, "member": Role.MEMBER, "admin": Role.ADMIN}
_RETURN = re.compile(r"/(?:[A-Za-z0-9][A-Za-z0-9/_.:,=&%?~-]{0,199})?")
_MOST_GROUPS = 1000


class Broken(Exception):
    """The provider says what it must not, or not what it must. The message is for the operator's log."""


@dataclass(frozen=True, slots=True)
class Grant:
    """What somebody becomes in a team."""

    team: str
    role: Role


@dataclass(frozen=True, slots=True)
class Party:
    """This platform, as the provider knows it, and whom it lets in."""

    issuer: str
    client_id: str
    client_secret: str = field(repr=False)
    redirect_uri: str
    # basic, post, or empty: as the provider says.
    client_auth: str
    scopes: str
    button: str
    domains: frozenset[str]
    sign_up: Grant | None
    groups_claim: str
    groups: Mapping[str, tuple[Grant, ...]]

    @property
    def is_local(self) -> bool:
        """Whether the provider runs on this machine, where plain http does."""
        return urlsplit(self.issuer).scheme == "http"

    @property
    def teams(self) -> frozenset[str]:
        """Those in which groups give roles."""
        return frozenset(grant.team for grants in self.groups.values() for grant in grants)

    def roles(self, groups: Sequence[str]) -> dict[str, Role]:
        """By team, what somebody in these groups is."""
        found: dict[str, Role] = {}
        for group in groups:
            for grant in self.groups.get(group, ()):
                found[grant.team] = max(grant.role, found.get(grant.team, Role.VIEWER))
        return found


@dataclass(frozen=True, slots=True)
class Metadata:
    """What the provider says of itself."""

    authorization_endpoint: str
    token_endpoint: str
    userinfo_endpoint: str
    jwks_uri: str
    algorithms: tuple[str, ...]
    # Whether the secret goes into the form, for lack of HTTP Basic.
    secret_in_form: bool
    # Whether it sends `iss` back along with the code.
    names_itself: bool


@dataclass(frozen=True, slots=True)
class Proven:
    """Somebody, as the provider knows them."""

    issuer: str
    subject: str
    # Only where the provider has verified it.
    email: str
    display_name: str
    # None: it did not say.
    groups: tuple[str, ...] | None


def party_of(settings: QuotaSettings) -> Party | None:
    """As the operator has set it; None where single sign-on is off. Raises SettingsError."""
    if not settings.oidc_issuer:
        return None
    issuer = settings.oidc_issuer
    if not _is_good(issuer, local=True) or urlsplit(issuer).query or urlsplit(issuer).fragment:
        raise SettingsError("CAIRN_OIDC_ISSUER: must be an https URL, or http on loopback")
    for name in ("oidc_client_id", "public_url"):
        if not getattr(settings, name):
            raise SettingsError(f"CAIRN_{name.upper()} is not set, and CAIRN_OIDC_ISSUER is")
    if "openid" not in settings.oidc_scopes.split():
        raise SettingsError("CAIRN_OIDC_SCOPES: lacks openid")
    if bool(settings.oidc_groups) != bool(settings.oidc_groups_claim):
        raise SettingsError("CAIRN_OIDC_GROUPS and CAIRN_OIDC_GROUPS_CLAIM are set together")
    sign_up = settings.oidc_sign_up
    return Party(
        issuer=issuer,
        client_id=settings.oidc_client_id,
        client_secret=_secret(settings),
        redirect_uri=settings.public_url.rstrip("/") + CALLBACK,
        client_auth=settings.oidc_client_auth,
        scopes=" ".join(settings.oidc_scopes.split()),
        button=settings.oidc_button.strip() or "Single sign-on",
        domains=frozenset(_listed(settings.oidc_domains.lower())),
        sign_up=_grant("CAIRN_OIDC_SIGN_UP", sign_up) if sign_up else None,
        groups_claim=settings.oidc_groups_claim,
        groups=_groups(settings.oidc_groups),
    )


def metadata_of(document: Any, party: Party) -> Metadata:
    """Of a discovery document. Raises Broken."""
    if not isinstance(document, dict) or document.get("issuer") != party.issuer:
        told = document.get("issuer") if isinstance(document, dict) else None
        raise Broken(f"it calls itself {str(told)[:200]!r}; CAIRN_OIDC_ISSUER has to be the very same")
    ends = {}
    for name in ("authorization_endpoint", "token_endpoint", "jwks_uri", "userinfo_endpoint"):
        url = document.get(name, "")
        optional = name == "userinfo_endpoint" and not url
        if not optional and not (isinstance(url, str) and _is_good(url, local=party.is_local)):
            raise Broken(f"its {name} is no https URL")
        ends[name] = url
    told = _texts(document.get("id_token_signing_alg_values_supported")) or _USUAL
    algorithms = tuple(one for one in ALGORITHMS if one in told)
    if not algorithms:
        raise Broken("it signs by no algorithm with a public key")
    methods = _texts(document.get("token_endpoint_auth_methods_supported")) or ("client_secret_basic",)
    return Metadata(
        **ends,
        algorithms=algorithms,
        secret_in_form=party.client_auth == "post"
        or (not party.client_auth and "client_secret_basic" not in methods),
        names_itself=document.get("authorization_response_iss_parameter_supported") is True,
    )


def begin_url(metadata: Metadata, party: Party, *, state: str, binding: str) -> str:
    """The provider's page, for a browser that is to come back."""
    challenge = hashlib.sha256(verifier(state, binding).encode()).digest()
    asked = {
        "response_type": "code",
        "client_id": party.client_id,
        "redirect_uri": party.redirect_uri,
        "scope": party.scopes,
        "state": state,
        "nonce": nonce(state, binding),
        "code_challenge": _base64(challenge),
        "code_challenge_method": "S256",
    }
    joined = "&" if urlsplit(metadata.authorization_endpoint).query else "?"
    return metadata.authorization_endpoint + joined + urlencode(asked)


def verifier(state: str, binding: str) -> str:
    """PKCE's: only who has the browser's own secret can make it."""
    return _derived(b"cairn pkce", state, binding)


def nonce(state: str, binding: str) -> str:
    """What the provider has to say back in the id_token."""
    return _derived(b"cairn nonce", state, binding)


def proven_of(claims: Mapping[str, Any], party: Party) -> Proven:
    """Who somebody is, by claims that were verified. Raises Broken."""
    subject = claims.get("sub")
    if not isinstance(subject, str) or not 0 < len(subject) <= 255:
        raise Broken("its id of somebody is none")
    email = claims.get("email")
    # Some say it as a text.
    verified = claims.get("email_verified") in (True, "true")
    groups = claims.get(party.groups_claim) if party.groups_claim else None
    return Proven(
        issuer=party.issuer,
        subject=subject,
        email=_email(email) if verified and isinstance(email, str) else "",
        display_name=_name(claims.get("name")),
        groups=None if groups is None else _texts([groups] if isinstance(groups, str) else groups),
    )


def check_domain(proven: Proven, party: Party) -> None:
    """Holds that somebody's address is of a domain that is let in. Raises PermissionDenied."""
    if party.domains and proven.email.rpartition("@")[2] not in party.domains:
        raise PermissionDenied(
            "Only verified addresses of " + ", ".join(sorted(party.domains)) + " come in this way.",
            reason=Reason.INVITATION_NEEDED,
        )


def return_path(text: str) -> str:
    """Where the page goes on: always a part of the page's own URL behind its `#`. Raises InvalidArgument."""
    if text and _RETURN.fullmatch(text) is None:
        raise InvalidArgument(
            "return_path: must be a view of the page, such as /runs",
            reason=Reason.FIELD_INVALID,
            field="return_path",
        )
    return text or "/runs"


def refused() -> Unauthenticated:
    """The same answer for all that is not as it has to be; the log says what."""
    return Unauthenticated(
        "This sign-in was not begun in this browser, is over, or was used, or the provider's answer was not"
        " good. Begin again.",
        reason=Reason.LOGIN_REFUSED,
    )


def not_invited(proven: Proven) -> PermissionDenied:
    """Whom nobody has invited."""
    whom = proven.email or "an address that the provider has verified"
    return PermissionDenied(
        f"Nobody has invited {whom}. Ask an admin of your team.", reason=Reason.INVITATION_NEEDED
    )


def _is_good(url: str, *, local: bool) -> bool:
    """https; or http to this machine itself, where that is allowed."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        _ = parts.port
    except ValueError:
        return False
    if not host or parts.username is not None or not url.isprintable() or " " in url:
        return False
    return parts.scheme == "https" or (local and parts.scheme == "http" and _is_loopback(host))


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _secret(settings: QuotaSettings) -> str:
    text, file = settings.oidc_client_secret.get_secret_value(), settings.oidc_client_secret_file
    if text and file:
        raise SettingsError("one of CAIRN_OIDC_CLIENT_SECRET and CAIRN_OIDC_CLIENT_SECRET_FILE is enough")
    if file is None:
        return text
    try:
        text = file.read_text().strip()
    except (OSError, UnicodeError) as error:
        raise SettingsError(
            f"CAIRN_OIDC_CLIENT_SECRET_FILE: {file} cannot be read ({type(error).__name__})"
        ) from None
    if not text:
        raise SettingsError(f"CAIRN_OIDC_CLIENT_SECRET_FILE: {file} is empty")
    return text


def _groups(text: str) -> Mapping[str, tuple[Grant, ...]]:
    found: dict[str, tuple[Grant, ...]] = {}
    for part in _listed(text):
        # The group's name may have any character; what is behind its last `=` has none.
        group, sign, grant = part.rpartition("=")
        if not group or not sign:
            raise SettingsError("CAIRN_OIDC_GROUPS: must be group=team:role, with commas between")
        found[group] = (*found.get(group, ()), _grant("CAIRN_OIDC_GROUPS", grant))
    return MappingProxyType(found)


def _grant(variable: str, text: str) -> Grant:
    team, _, role = text.strip().partition(":")
    try:
        return Grant(check_id(team, "team"), _ROLES[role])
    except (InvalidArgument, KeyError):
        raise SettingsError(
            f"{variable}: must name team:role, the role viewer, member or admin; owners are made by owners"
        ) from None


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        return ()
    return tuple(one for one in value[:_MOST_GROUPS] if isinstance(one, str) and len(one) <= 255)


def _email(text: str) -> str:
    try:
        return check_email(text)
    except InvalidArgument:
        return ""


def _name(value: Any) -> str:
    text = value if isinstance(value, str) else ""
    return "".join(character for character in text if character.isprintable())[:200].strip()


def _derived(purpose: bytes, state: str, binding: str) -> str:
    return _base64(hmac.new(binding.encode(), purpose + b"\0" + state.encode(), hashlib.sha256).digest())


def _base64(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()

"""Where a request comes from, also behind proxies that are trusted to tell."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from starlette.datastructures import Headers
from starlette.types import Scope

from cairn_common.settings import SettingsError

Networks = tuple[IPv4Network | IPv6Network, ...]


def networks(text: str) -> Networks:
    """Addresses or networks with commas between. Raises SettingsError."""
    try:
        return tuple(ip_network(part.strip()) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise SettingsError(f"CAIRN_TRUSTED_PROXIES: {error}") from None


def client_address(scope: Scope, trusted: Networks) -> str:
    """The connection's other end; where that is a trusted proxy, the last address it tells that is none."""
    peer = _plain(scope["client"][0] if scope.get("client") else "")
    if not _is_in(peer, trusted):
        return str(peer)
    told = [
        part.strip() for line in Headers(scope=scope).getlist("x-forwarded-for") for part in line.split(",")
    ]
    for address in reversed(told):
        if not _is_address(address):
            break
        if not _is_in(_plain(address), trusted):
            return _plain(address)
    return str(peer)


def _plain(text: str) -> str:
    """An address of IPv4 as itself, also where a listener for both wraps it in one of IPv6."""
    try:
        mapped = getattr(ip_address(text), "ipv4_mapped", None)
    except ValueError:
        return text
    return str(mapped or text)


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _is_in(text: str, trusted: Networks) -> bool:
    return _is_address(text) and any(ip_address(text) in network for network in trusted)

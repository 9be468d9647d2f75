"""What a webhook is told, and whom it may lead to: pure."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network

from cairn_common.settings import SettingsError

Address = IPv4Address | IPv6Address
MOST_ATTEMPTS = 9
"""Over about a day and a half."""
FIRST_PAUSE, LONGEST_PAUSE = timedelta(seconds=10), timedelta(hours=12)
# Addresses of IPv6 in which one of IPv4 stands: that one counts.
_NAT64 = IPv6Network("64:ff9b::/96")


class Format(IntEnum):
    """Numbers as in cairn.quota.v1.Webhook.Format."""

    JSON = 1
    SLACK = 2


class DeliveryState(IntEnum):
    """Numbers as in cairn.quota.v1.WebhookDelivery.State."""

    PENDING = 1
    DELIVERED = 2
    FAILED = 3


@dataclass(frozen=True, slots=True)
class Webhook:
    """An address that is told what happens in a team; the URL itself is sealed."""

    uid: str
    team: str
    display_name: str
    host: str
    events: tuple[str, ...]
    format: Format
    creator: str
    create_time: datetime

    def wants(self, event: str) -> bool:
        """Whether it is told of such a fact."""
        return not self.events or any(
            event == each or (each.endswith(".") and event.startswith(each)) for each in self.events
        )


@dataclass(frozen=True, slots=True)
class Told:
    """A fact of a team, as far as others are told of it."""

    id: str
    time: datetime
    team: str
    # job.finished
    event: str
    resource: str
    actor: str
    # Plain values: uid, display_name, state, experiment, cause.
    about: dict[str, str]


def body(told: Told, form: Format) -> str:
    """What is sent, as JSON."""
    if form is Format.SLACK:
        return json.dumps({"text": _sentence(told)}, ensure_ascii=False)
    data = {"name": told.resource, "actor": told.actor, **told.about}
    sent = {
        "id": told.id, "type": told.event, "time": told.time.isoformat().replace("+00:00", "Z"),
        "team": told.team, "data": data,
    }  # fmt: skip
    return json.dumps(sent, ensure_ascii=False)


def _sentence(told: Told) -> str:
    """In Slack's own escapes, so that a name is no link and calls nobody."""
    name = told.about.get("display_name") or told.resource.rpartition("/")[2]
    for character, escape in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        name = name.replace(character, escape)
    state = told.about.get("state", "")
    return f"{told.team}: {told.event.replace('.', ' ')} {name}" + (f" ({state.lower()})" if state else "")


def signature(secret: str, sent: str, *, now: datetime) -> str:
    """The header by which the receiver knows who sent this, and when."""
    seconds = int(now.timestamp())
    made = hmac.new(secret.encode(), f"{seconds}.{sent}".encode(), hashlib.sha256).hexdigest()
    return f"t={seconds},v1={made}"


def pause(attempts: int) -> timedelta | None:
    """How long to wait after so many tries; None: it is given up."""
    if attempts >= MOST_ATTEMPTS:
        return None
    return min(FIRST_PAUSE * int(4 ** (attempts - 1)), LONGEST_PAUSE)


@dataclass(frozen=True, slots=True)
class Reach:
    """Where webhooks may lead: to public addresses, and to networks that the operator names."""

    networks: tuple[object, ...] = ()

    @classmethod
    def of(cls, text: str) -> Reach:
        """Of CAIRN_WEBHOOK_NETWORKS. Raises SettingsError."""
        try:
            return cls(tuple(ip_network(part.strip()) for part in text.split(",") if part.strip()))
        except ValueError as error:
            raise SettingsError(f"CAIRN_WEBHOOK_NETWORKS: {error}") from None

    def allows(self, text: str) -> bool:
        """Whether this address may be spoken to."""
        address = _real(ip_address(text.partition("%")[0]))
        if any(address in network for network in self.networks):  # type: ignore[operator]
            return True
        private = address.is_multicast or address.is_reserved or getattr(address, "is_site_local", False)
        return address.is_global and not private

    def chosen(self, addresses: Sequence[str]) -> str:
        """The one to speak to, of all that a name leads to; empty where one of them may not be."""
        good = bool(addresses) and all(self.allows(each) for each in addresses)
        return addresses[0] if good else ""


def _real(address: Address) -> Address:
    if isinstance(address, IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo or (None, None))[1]
        if inner is None and address in _NAT64:
            inner = IPv4Address(int(address) & 0xFFFFFFFF)
        return inner or address
    return address

"""WebhookService: addresses elsewhere that are told what happens in a team."""

from __future__ import annotations

import json
from dataclasses import dataclass
from urllib.parse import urlsplit

from cairn.quota.v1 import webhook_pb2, webhook_service_pb2
from cairn.quota.v1.webhook_service_pb2_grpc import WebhookServiceServicer
from cairn_common.auth import Access, Role, access, new_token, require
from cairn_common.clock import Clock
from cairn_common.errors import FailedPrecondition
from cairn_common.ids import new_uid, parse_name
from cairn_common.once import Once
from cairn_common.paging import decode_token, encode_token, page_size
from cairn_common.rpc import caller
from cairn_common.sealing import Sealer
from cairn_quota import checks, wire
from cairn_quota.sight import team_of
from cairn_quota.webhook import Format, Webhook
from cairn_quota.webhook_facts import NAMES
from cairn_quota.webhook_store import Delivery, WebhookStore

WEBHOOKS = "cairn.quota.v1.WebhookService"
WEBHOOK_ACCESS: dict[str, Access] = {
    f"/{WEBHOOKS}/CreateWebhook": access(Role.ADMIN),
    f"/{WEBHOOKS}/ListWebhooks": access(Role.ADMIN),
    f"/{WEBHOOKS}/DeleteWebhook": access(Role.ADMIN),
    f"/{WEBHOOKS}/ListWebhookDeliveries": access(Role.ADMIN),
}
LONGEST_URL = 1000


@dataclass(frozen=True)
class WebhookApi(WebhookServiceServicer):
    """WebhookService over its store. Without a sealer there are no webhooks."""

    store: WebhookStore
    sealer: Sealer | None
    once: Once
    clock: Clock

    async def CreateWebhook(
        self, request: webhook_service_pb2.CreateWebhookRequest, context: object
    ) -> webhook_service_pb2.CreateWebhookResponse:
        """An address that is told from now on."""
        team, sealer = team_of(request.parent, Role.ADMIN), self.sealer
        if sealer is None:
            raise FailedPrecondition("There is no key to keep webhooks by; set CAIRN_SECRETS_KEY.")
        return await self.once(
            request, webhook_service_pb2.CreateWebhookResponse, lambda: self._create(team, request, sealer)
        )

    async def _create(
        self, team: str, request: webhook_service_pb2.CreateWebhookRequest, sealer: Sealer
    ) -> webhook_service_pb2.CreateWebhookResponse:
        asked = request.webhook
        uid, secret = new_uid(), new_token("cairn_hook")
        made = Webhook(
            uid=uid,
            team=team,
            display_name=checks.text(asked.display_name, "webhook.display_name"),
            host=_host(asked.url),
            events=tuple(_event(each) for each in dict.fromkeys(asked.events)),
            format=Format(asked.format or Format.JSON) if asked.format in (0, 1, 2) else _no_format(),
            creator=caller().subject,
            create_time=self.clock.now(),
        )
        sealed = sealer.seal(uid, json.dumps({"url": asked.url, "secret": secret}).encode())
        await self.store.create(made, sealed=sealed)
        return webhook_service_pb2.CreateWebhookResponse(webhook=_message(made), secret=secret)

    async def ListWebhooks(
        self, request: webhook_service_pb2.ListWebhooksRequest, context: object
    ) -> webhook_service_pb2.ListWebhooksResponse:
        """A team's, without URLs."""
        found = await self.store.webhooks(team_of(request.parent, Role.ADMIN))
        return webhook_service_pb2.ListWebhooksResponse(webhooks=[_message(one) for one in found])

    async def DeleteWebhook(
        self, request: webhook_service_pb2.DeleteWebhookRequest, context: object
    ) -> webhook_service_pb2.DeleteWebhookResponse:
        """Nothing more is sent there."""
        team, uid = _named(request.name)
        await self.store.delete(team, uid, actor=caller().subject, now=self.clock.now())
        return webhook_service_pb2.DeleteWebhookResponse()

    async def ListWebhookDeliveries(
        self, request: webhook_service_pb2.ListWebhookDeliveriesRequest, context: object
    ) -> webhook_service_pb2.ListWebhookDeliveriesResponse:
        """What it was told, newest first."""
        team, uid = _named(request.parent)
        scope, size, token = f"deliveries/{uid}", page_size(request.page_size), request.page_token
        before = decode_token(token, scope=scope, read=lambda at: str(at["before"])) if token else None
        found = await self.store.deliveries(team, uid, before=before, size=size + 1)
        more = len(found) > size
        return webhook_service_pb2.ListWebhookDeliveriesResponse(
            deliveries=[_delivery(one) for one in found[:size]],
            next_page_token=encode_token({"before": found[size - 1].uid}, scope=scope) if more else "",
        )


def _named(name: str) -> tuple[str, str]:
    parts = parse_name("teams/{team}/webhooks/{webhook}", name)
    require(caller(), parts["team"], Role.ADMIN)
    return parts["team"], parts["webhook"]


def _host(url: str) -> str:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        parts, host = urlsplit(""), ""
    plain = url.isascii() and url.isprintable() and " " not in url and "\\" not in url
    if not host or parts.scheme not in ("http", "https") or not plain or len(url) > LONGEST_URL:
        raise checks.invalid("webhook.url", "must be an http or https address, such as https://host/path")
    if parts.username or parts.password:
        raise checks.invalid("webhook.url", "must have no user and password in it; the secret signs it")
    return host[:253]


def _event(text: str) -> str:
    if text in NAMES or (text.endswith(".") and any(name.startswith(text) for name in NAMES)):
        return text
    raise checks.invalid("webhook.events", f"{text[:80]!r} is none of {', '.join(sorted(NAMES))}")


def _no_format() -> Format:
    raise checks.invalid("webhook.format", "must be JSON or SLACK")


def _message(webhook: Webhook) -> webhook_pb2.Webhook:
    return webhook_pb2.Webhook(
        name=f"teams/{webhook.team}/webhooks/{webhook.uid}",
        uid=webhook.uid,
        display_name=webhook.display_name,
        create_time=wire.timestamp(webhook.create_time),
        host=webhook.host,
        events=webhook.events,
        format=webhook_pb2.Webhook.Format.ValueType(webhook.format),
        creator=webhook.creator,
    )


def _delivery(one: Delivery) -> webhook_pb2.WebhookDelivery:
    return webhook_pb2.WebhookDelivery(
        uid=one.uid,
        event=one.event,
        resource=one.resource,
        state=webhook_pb2.WebhookDelivery.State.ValueType(one.state),
        attempts=one.attempts,
        status=one.status,
        error=one.error,
        create_time=wire.timestamp(one.create_time),
        try_time=wire.timestamp(one.try_time),
        next_time=wire.timestamp(one.next_time),
    )

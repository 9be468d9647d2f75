"""Routes of webhooks."""

from __future__ import annotations

from cairn_gateway.http.route import Route

TEAM = "teams/{team}"
WEBHOOK = "teams/{team}/webhooks/{webhook}"

ROUTES = (
    Route(
        method="POST",
        path="/teams/{team}/webhooks",
        rpc="WebhookService/CreateWebhook",
        summary="Have an address elsewhere told what happens in the team. Its secret is shown this once.",
        bind={"parent": TEAM},
    ),
    Route(
        method="GET",
        path="/teams/{team}/webhooks",
        rpc="WebhookService/ListWebhooks",
        summary="The team's webhooks, without their URLs.",
        bind={"parent": TEAM},
    ),
    Route(
        method="POST",
        path="/teams/{team}/webhooks/{webhook}:delete",
        rpc="WebhookService/DeleteWebhook",
        summary="Send nothing there any more.",
        bind={"name": WEBHOOK},
    ),
    Route(
        method="GET",
        path="/teams/{team}/webhooks/{webhook}/deliveries",
        rpc="WebhookService/ListWebhookDeliveries",
        summary="What a webhook was told, newest first, and how that went.",
        bind={"parent": WEBHOOK},
    ),
)

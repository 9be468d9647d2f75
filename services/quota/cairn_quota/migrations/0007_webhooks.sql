-- Addresses elsewhere that are told what happens in a team.
CREATE TABLE webhooks (
    uid text PRIMARY KEY,
    team text NOT NULL REFERENCES teams (id),
    display_name text NOT NULL,
    -- The URL and the signing secret, encrypted and bound to this row's uid.
    sealed bytea NOT NULL,
    host text NOT NULL,
    events text[] NOT NULL,
    -- cairn.quota.v1.Webhook.Format: 1 JSON, 2 Slack
    format smallint NOT NULL CHECK (format IN (1, 2)),
    creator text NOT NULL,
    create_time timestamptz NOT NULL
);

CREATE INDEX webhooks_by_team ON webhooks (team, uid);

-- One fact for one webhook: told once, tried until it is taken or given up.
CREATE TABLE webhook_deliveries (
    uid text PRIMARY KEY,
    webhook_uid text NOT NULL REFERENCES webhooks (uid) ON DELETE CASCADE,
    fact_id text NOT NULL,
    event text NOT NULL,
    resource text NOT NULL,
    -- What is sent, as JSON.
    body text NOT NULL,
    -- cairn.quota.v1.WebhookDelivery.State: 1 pending, 2 delivered, 3 failed
    state smallint NOT NULL CHECK (state BETWEEN 1 AND 3),
    attempts integer NOT NULL DEFAULT 0,
    status integer NOT NULL DEFAULT 0,
    error text NOT NULL DEFAULT '',
    create_time timestamptz NOT NULL,
    try_time timestamptz,
    -- When it is due; whoever sends it moves this ahead first, so that no other does.
    next_time timestamptz,
    UNIQUE (webhook_uid, fact_id),
    CHECK ((state = 1) = (next_time IS NOT NULL))
);

CREATE INDEX webhook_deliveries_due ON webhook_deliveries (next_time) WHERE state = 1;
CREATE INDEX webhook_deliveries_by_time ON webhook_deliveries (create_time);

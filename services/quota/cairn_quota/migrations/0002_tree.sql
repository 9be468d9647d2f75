-- The quota tree, the double-entry ledger, and what attempts were charged so far.

-- The row that every change of what is held or owed locks first.
CREATE TABLE tree_state (
    single boolean PRIMARY KEY DEFAULT true CHECK (single),
    -- Grows with every such change: what a process remembers is good while it is the same.
    seq bigint NOT NULL DEFAULT 0,
    -- The highest epoch of a scheduler's lease that was seen.
    epoch bigint NOT NULL DEFAULT 0
);

INSERT INTO tree_state DEFAULT VALUES;

-- Every version of the tree, with who made it and what it changed. Append-only.
CREATE TABLE tree_versions (
    version bigint PRIMARY KEY CHECK (version > 0),
    -- cairn.quota.v1.QuotaTree
    tree bytea NOT NULL,
    -- cairn.quota.v1.TreeVersion, without what stands beside it
    changes bytea NOT NULL,
    actor text NOT NULL,
    time timestamptz NOT NULL,
    request_id text NOT NULL
);

CREATE UNIQUE INDEX tree_versions_by_request ON tree_versions (actor, request_id) WHERE request_id <> '';

-- How often use of a node grew; a plan says which one it was made on.
CREATE TABLE node_counters (
    node text PRIMARY KEY,
    counter bigint NOT NULL
);

ALTER TABLE reservations
    ADD COLUMN node text NOT NULL DEFAULT '',
    ADD COLUMN flavor text NOT NULL DEFAULT '',
    -- Thousandths of each resource's unit.
    ADD COLUMN resources jsonb NOT NULL DEFAULT '{}',
    ADD COLUMN usr text NOT NULL DEFAULT '',
    ADD COLUMN project text NOT NULL DEFAULT '',
    -- Micro-money for an hour of all of it.
    ADD COLUMN price bigint NOT NULL DEFAULT 0 CHECK (price >= 0),
    -- Milliseconds
    ADD COLUMN max_runtime bigint CHECK (max_runtime >= 0),
    ADD COLUMN priority_class text NOT NULL DEFAULT '';

UPDATE reservations SET
    node = team,
    flavor = 'default',
    resources = jsonb_build_object('gpu', gpus * 1000, 'cpu', cpu_milli, 'jobs', jobs * 1000);

-- cairn.quota.v1.LedgerEntry; `amount` goes from debit to credit.
CREATE TABLE ledger_entries (
    seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    time timestamptz NOT NULL,
    kind smallint NOT NULL CHECK (kind BETWEEN 1 AND 6),
    -- Empty: usage itself.
    budget text NOT NULL,
    period_start timestamptz NOT NULL,
    debit smallint NOT NULL CHECK (debit BETWEEN 1 AND 4),
    credit smallint NOT NULL CHECK (credit BETWEEN 1 AND 4),
    unit smallint NOT NULL CHECK (unit BETWEEN 1 AND 3),
    amount bigint NOT NULL CHECK (amount > 0),
    reservation text NOT NULL,
    job_uid text NOT NULL,
    attempt_uid text NOT NULL,
    node text NOT NULL,
    team text NOT NULL,
    project text NOT NULL,
    usr text NOT NULL,
    flavor text NOT NULL,
    actor text NOT NULL,
    reason text NOT NULL,
    CHECK (debit <> credit)
);

CREATE INDEX ledger_entries_by_team ON ledger_entries (team, time) WHERE budget = '';
CREATE INDEX ledger_entries_by_budget ON ledger_entries (budget, time) WHERE budget <> '';

-- Sums of the ledger, changed in the same transaction: granted = available + held + settled.
CREATE TABLE balances (
    budget text NOT NULL,
    period_start timestamptz NOT NULL,
    period_end timestamptz,
    unit smallint NOT NULL,
    -- Of granted: by the tree; and, for a rolling budget, for what left its window.
    base bigint NOT NULL,
    rolled bigint NOT NULL,
    granted bigint NOT NULL,
    held bigint NOT NULL CHECK (held >= 0),
    settled bigint NOT NULL CHECK (settled >= 0),
    warned boolean NOT NULL,
    exhausted boolean NOT NULL,
    PRIMARY KEY (budget, period_start)
);

-- What each hold holds of each budget now.
CREATE TABLE holdings (
    reservation_uid text NOT NULL,
    budget text NOT NULL,
    period_start timestamptz NOT NULL,
    held bigint NOT NULL CHECK (held >= 0),
    PRIMARY KEY (reservation_uid, budget)
);

-- Up to when each attempt was charged.
CREATE TABLE meters (
    attempt_uid text PRIMARY KEY,
    -- Empty: it ran under no reservation.
    reservation_uid text NOT NULL,
    start_time timestamptz NOT NULL,
    end_time timestamptz,
    metered_until timestamptz NOT NULL,
    CHECK (metered_until >= start_time)
);

CREATE INDEX meters_running ON meters (metered_until) WHERE end_time IS NULL;

-- What people asked for once is not done twice.
CREATE TABLE adjustments (
    actor text NOT NULL,
    request_id text NOT NULL CHECK (request_id <> ''),
    budget text NOT NULL,
    amount bigint NOT NULL,
    time timestamptz NOT NULL,
    PRIMARY KEY (actor, request_id)
);

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only', TG_TABLE_NAME;
END
$$;

CREATE TRIGGER ledger_entries_append_only BEFORE UPDATE OR DELETE ON ledger_entries
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER tree_versions_append_only BEFORE UPDATE OR DELETE ON tree_versions
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER adjustments_append_only BEFORE UPDATE OR DELETE ON adjustments
    FOR EACH ROW EXECUTE FUNCTION refuse_change();

REVOKE UPDATE, DELETE, TRUNCATE ON ledger_entries, tree_versions, adjustments, usage_entries
    FROM CURRENT_USER;

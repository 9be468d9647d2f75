-- Teams, their limits and holds, what was used, who is who.

CREATE TABLE teams (
    id text PRIMARY KEY,
    uid text NOT NULL UNIQUE,
    display_name text NOT NULL,
    create_time timestamptz NOT NULL,
    update_time timestamptz NOT NULL,
    -- The etag: grows by one with every change of the name or of a limit.
    revision bigint NOT NULL DEFAULT 1,
    creator text NOT NULL,
    request_id text NOT NULL DEFAULT ''
);

-- The row that every reservation of a team locks. NULL: no limit.
CREATE TABLE limits (
    team text PRIMARY KEY REFERENCES teams (id),
    gpus bigint CHECK (gpus >= 0),
    cpu_milli bigint CHECK (cpu_milli >= 0),
    jobs bigint CHECK (jobs >= 0),
    -- Sums over the team's HELD reservations, changed in the same transaction as these.
    held_gpus bigint NOT NULL DEFAULT 0 CHECK (held_gpus >= 0),
    held_cpu_milli bigint NOT NULL DEFAULT 0 CHECK (held_cpu_milli >= 0),
    held_jobs bigint NOT NULL DEFAULT 0 CHECK (held_jobs >= 0)
);

CREATE TABLE reservations (
    team text NOT NULL REFERENCES teams (id),
    -- `{job uid}-{admission number}`
    id text NOT NULL,
    uid text NOT NULL UNIQUE,
    job_uid text NOT NULL,
    admission integer NOT NULL CHECK (admission > 0),
    gpus bigint NOT NULL CHECK (gpus >= 0),
    cpu_milli bigint NOT NULL CHECK (cpu_milli >= 0),
    jobs bigint NOT NULL CHECK (jobs >= 0),
    -- cairn.quota.v1.Reservation.State: 1 HELD, 2 SETTLED, 3 RELEASED
    state smallint NOT NULL CHECK (state BETWEEN 1 AND 3),
    create_time timestamptz NOT NULL,
    -- When it was last asked for; a young one may be on its way into an admission.
    ask_time timestamptz NOT NULL,
    end_time timestamptz,
    PRIMARY KEY (team, id),
    CHECK ((state = 1) = (end_time IS NULL))
);

CREATE INDEX reservations_by_job ON reservations (job_uid);
CREATE INDEX reservations_held ON reservations (uid) WHERE state = 1;
CREATE INDEX reservations_by_team ON reservations (team, uid);

-- Integers, so that sums do not depend on their order.
CREATE TABLE usage_entries (
    attempt_uid text PRIMARY KEY,
    team text NOT NULL,
    job_uid text NOT NULL,
    creator text NOT NULL,
    start_time timestamptz NOT NULL,
    end_time timestamptz NOT NULL,
    -- GPUs x milliseconds
    gpu_millis bigint NOT NULL CHECK (gpu_millis >= 0),
    -- thousandths of a core x milliseconds
    cpu_micros bigint NOT NULL CHECK (cpu_micros >= 0),
    CHECK (end_time >= start_time)
);

CREATE INDEX usage_entries_by_team ON usage_entries (team, end_time);
CREATE INDEX usage_entries_by_job ON usage_entries (job_uid);

CREATE FUNCTION usage_entries_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'usage entries are append-only';
END
$$;

CREATE TRIGGER usage_entries_append_only BEFORE UPDATE OR DELETE ON usage_entries
    FOR EACH ROW EXECUTE FUNCTION usage_entries_refuse_change();

-- The highest revision of each job that was acted on: what is older changes nothing.
CREATE TABLE job_revisions (
    job_uid text PRIMARY KEY,
    revision bigint NOT NULL
);

CREATE TABLE memberships (
    team text NOT NULL REFERENCES teams (id),
    -- users/{user}
    subject text NOT NULL CHECK (subject LIKE 'users/%'),
    -- cairn.quota.v1.Role: 1 viewer, 2 member, 3 admin, 4 owner. Never service.
    role smallint NOT NULL CHECK (role BETWEEN 1 AND 4),
    PRIMARY KEY (team, subject)
);

CREATE INDEX memberships_by_subject ON memberships (subject);

CREATE TABLE tokens (
    uid text PRIMARY KEY,
    -- SHA-256 of the secret, hexadecimal. The secret itself is nowhere.
    hash text NOT NULL UNIQUE CHECK (length(hash) = 64),
    display_name text NOT NULL,
    -- users/{user}, services/{service} or runs/{run uid}
    subject text NOT NULL,
    -- cairn.quota.v1.Scope: 1 read, 2 write, 3 admin, 4 run
    scope smallint NOT NULL CHECK (scope BETWEEN 1 AND 4),
    team text NOT NULL DEFAULT '',
    run_uid text NOT NULL DEFAULT '',
    attempt_uid text NOT NULL DEFAULT '',
    create_time timestamptz NOT NULL,
    expire_time timestamptz,
    revoke_time timestamptz,
    creator text NOT NULL,
    request_id text,
    UNIQUE (creator, request_id),
    CHECK ((scope = 4) = (subject LIKE 'runs/%')),
    CHECK (scope <> 4 OR (team <> '' AND run_uid <> '' AND expire_time IS NOT NULL))
);

CREATE INDEX tokens_by_subject ON tokens (subject, uid);

-- Up to when reconciliation has read the scheduler's jobs: what the bus may have lost is caught up on.
CREATE TABLE reconciliation (
    single boolean PRIMARY KEY DEFAULT true CHECK (single),
    caught_up timestamptz NOT NULL
);

-- Wishes that an alias names a version, and what became of them.
CREATE TABLE promotions (
    team text NOT NULL,
    uid text NOT NULL UNIQUE,
    seq bigint GENERATED ALWAYS AS IDENTITY,
    artifact text NOT NULL,
    number bigint NOT NULL,
    alias text NOT NULL,
    -- As cairn.tracker.v1.Promotion.State.
    state smallint NOT NULL,
    requester text NOT NULL,
    decider text NOT NULL DEFAULT '',
    note text NOT NULL DEFAULT '',
    decision text NOT NULL DEFAULT '',
    create_time timestamptz NOT NULL,
    decide_time timestamptz,
    PRIMARY KEY (team, seq),
    FOREIGN KEY (team, artifact, number) REFERENCES versions ON UPDATE CASCADE
);
-- The same is asked for once.
CREATE UNIQUE INDEX promotions_pending ON promotions (team, artifact, alias, number) WHERE state = 1;

-- Aliases that need a second person's consent.
CREATE TABLE promotion_rules (
    team text PRIMARY KEY,
    approved_aliases text[] NOT NULL
);

-- Who consented to a move; empty: nobody was asked.
ALTER TABLE alias_moves ADD COLUMN approver text NOT NULL DEFAULT '';

-- Runs that were made from a run.
CREATE INDEX runs_by_origin ON runs (team, (origin ->> 'run')) WHERE origin <> '{}';

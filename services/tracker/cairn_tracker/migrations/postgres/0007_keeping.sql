-- A deleted version stays as a row: its number is not given again, and lineage goes on naming it.
ALTER TABLE versions
    ADD COLUMN delete_time timestamptz,
    ADD COLUMN deleter text NOT NULL DEFAULT '',
    -- Who pinned it; empty: nobody.
    ADD COLUMN pinner text NOT NULL DEFAULT '';
CREATE INDEX sources_by_source ON sources (source_uid);

-- What each alias named, in the order of its moves.
CREATE TABLE alias_moves (
    team text NOT NULL,
    artifact text NOT NULL,
    seq bigint GENERATED ALWAYS AS IDENTITY,
    alias text NOT NULL,
    -- None: it was removed.
    number bigint,
    actor text NOT NULL,
    time timestamptz NOT NULL,
    PRIMARY KEY (team, artifact, seq)
);

-- What a team changed of how it keeps its artifacts.
CREATE TABLE keeping (
    team text PRIMARY KEY,
    protected_aliases text[] NOT NULL
);

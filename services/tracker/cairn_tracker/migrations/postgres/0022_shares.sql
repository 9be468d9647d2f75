-- Links by which anybody reads certain runs.
CREATE TABLE shares (
    uid text PRIMARY KEY,
    -- SHA-256 of the secret in the link, hexadecimal. The secret itself is nowhere.
    hash text NOT NULL UNIQUE CHECK (length(hash) = 64),
    team text NOT NULL,
    run_uids text[] NOT NULL CHECK (cardinality(run_uids) BETWEEN 1 AND 20),
    creator text NOT NULL,
    create_time timestamptz NOT NULL,
    expire_time timestamptz NOT NULL,
    revoke_time timestamptz
);

CREATE INDEX shares_by_team ON shares (team, uid);

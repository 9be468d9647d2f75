-- What single ranks have committed of checkpoints that are not whole yet.
CREATE TABLE shards (
    team text NOT NULL,
    run_uid text NOT NULL,
    artifact text NOT NULL,
    attempt integer NOT NULL,
    step bigint NOT NULL,
    ranks integer NOT NULL,
    rank integer NOT NULL,
    -- [{path, size, digest, parts: [[digest, size]]}]
    entries jsonb NOT NULL,
    metadata jsonb NOT NULL,
    create_time timestamptz NOT NULL,
    PRIMARY KEY (team, run_uid, artifact, attempt, step, ranks, rank)
);

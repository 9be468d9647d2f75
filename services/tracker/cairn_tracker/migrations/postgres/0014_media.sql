-- Histograms, tables and images: what each run logged last under a key at a step.
CREATE TABLE media (
    team text NOT NULL,
    run_uid text NOT NULL,
    key text NOT NULL,
    step bigint NOT NULL,
    attempt integer NOT NULL,
    time timestamptz NOT NULL,
    -- Facts of each item, in their order.
    items jsonb NOT NULL,
    -- The bytes of the small ones among them, one behind the other.
    data bytea NOT NULL,
    PRIMARY KEY (team, run_uid, key, step),
    FOREIGN KEY (team, run_uid) REFERENCES runs ON DELETE CASCADE
);

-- How many steps each key has, and the highest.
CREATE TABLE media_keys (
    team text NOT NULL,
    run_uid text NOT NULL,
    key text NOT NULL,
    count bigint NOT NULL,
    last_step bigint NOT NULL,
    PRIMARY KEY (team, run_uid, key),
    FOREIGN KEY (team, run_uid) REFERENCES runs ON DELETE CASCADE
);

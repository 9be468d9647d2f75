-- Experiments and runs as MLflow's clients know them, too.

-- Decimal, rising with time, and telling nothing of how many there are elsewhere.
CREATE FUNCTION experiment_number() RETURNS bigint LANGUAGE sql VOLATILE AS $$
    SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint * 100 + floor(random() * 100)::bigint
$$;
ALTER TABLE experiments
    ADD COLUMN number bigint,
    -- What people call it; unlike its id it can be changed.
    ADD COLUMN display_name text,
    ADD COLUMN labels jsonb NOT NULL DEFAULT '{}',
    ADD COLUMN delete_time timestamptz;
UPDATE experiments SET number = CASE WHEN id = 'default' THEN 0 ELSE experiment_number() END,
    display_name = CASE WHEN id = 'default' THEN 'Default' ELSE id END;
ALTER TABLE experiments
    ALTER COLUMN number SET DEFAULT experiment_number(),
    ALTER COLUMN number SET NOT NULL,
    ALTER COLUMN display_name SET NOT NULL;
CREATE UNIQUE INDEX experiments_by_number ON experiments (team, number);
CREATE UNIQUE INDEX experiments_by_name ON experiments (team, display_name);

ALTER TABLE runs
    -- MLflow's tags: texts by key. `tags` are words alone.
    ADD COLUMN labels jsonb NOT NULL DEFAULT '{}',
    ADD COLUMN user_id text NOT NULL DEFAULT '',
    ADD COLUMN delete_time timestamptz;
CREATE INDEX runs_by_start ON runs (team, experiment, start_time DESC, uid);

ALTER TABLE summaries
    -- Of the last value; microseconds since 1970.
    ADD COLUMN last_time bigint NOT NULL DEFAULT 0,
    -- The last value is of a point that waits in pending_points: all else goes as far as this step. With a
    -- count of 0 there is nothing else yet.
    ADD COLUMN settled_step bigint;

-- Points that were answered for, on their way to ClickHouse. A row is one call.
CREATE TABLE pending_points (
    seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    team text NOT NULL,
    run_uid text NOT NULL,
    keys text[] NOT NULL,
    steps bigint[] NOT NULL,
    -- Milliseconds since 1970.
    times bigint[] NOT NULL,
    points float8[] NOT NULL
);
CREATE INDEX pending_points_by_run ON pending_points (team, run_uid);

-- Data that runs read, as MLflow's clients describe it: known by experiment, name and digest.
CREATE TABLE described_datasets (
    team text NOT NULL,
    uid text NOT NULL,
    experiment text NOT NULL,
    name text NOT NULL,
    digest text NOT NULL,
    source_type text NOT NULL,
    source text NOT NULL,
    schema text NOT NULL,
    profile text NOT NULL,
    PRIMARY KEY (team, uid),
    UNIQUE (team, experiment, name, digest)
);
CREATE TABLE run_inputs (
    team text NOT NULL,
    run_uid text NOT NULL,
    dataset_uid text NOT NULL,
    seq bigint GENERATED ALWAYS AS IDENTITY,
    labels jsonb NOT NULL,
    PRIMARY KEY (team, run_uid, dataset_uid),
    FOREIGN KEY (team, dataset_uid) REFERENCES described_datasets
);
CREATE INDEX run_inputs_by_dataset ON run_inputs (team, dataset_uid);
CREATE TABLE run_models (
    team text NOT NULL,
    run_uid text NOT NULL,
    model_id text NOT NULL,
    -- Made by the run, not read.
    made boolean NOT NULL,
    step bigint NOT NULL,
    seq bigint GENERATED ALWAYS AS IDENTITY,
    PRIMARY KEY (team, run_uid, model_id, made)
);

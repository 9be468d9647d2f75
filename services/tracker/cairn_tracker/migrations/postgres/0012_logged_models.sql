-- Models that runs logged, as MLflow's clients have them: files under an id, before anybody registers them.
CREATE TABLE logged_models (
    team text NOT NULL,
    model_id text NOT NULL,
    -- In decimal, as MLflow's clients name experiments.
    experiment_id text NOT NULL,
    name text NOT NULL,
    model_type text NOT NULL DEFAULT '',
    source_run_id text NOT NULL DEFAULT '',
    status smallint NOT NULL,
    params jsonb NOT NULL DEFAULT '{}',
    tags jsonb NOT NULL DEFAULT '{}',
    creator text NOT NULL,
    create_time timestamptz NOT NULL,
    update_time timestamptz NOT NULL,
    delete_time timestamptz,
    PRIMARY KEY (team, model_id)
);
CREATE INDEX logged_models_by_experiment ON logged_models (team, experiment_id, create_time DESC);

-- What runs measured of them. A point that is sent twice is one.
CREATE TABLE logged_model_metrics (
    team text NOT NULL,
    model_id text NOT NULL,
    key text NOT NULL,
    timestamp bigint NOT NULL,
    step bigint NOT NULL,
    run_id text NOT NULL,
    value float8 NOT NULL,
    dataset_name text NOT NULL DEFAULT '',
    dataset_digest text NOT NULL DEFAULT '',
    PRIMARY KEY (team, model_id, key, timestamp, step, run_id, value),
    FOREIGN KEY (team, model_id) REFERENCES logged_models
);

-- Files of MLflow's clients that are on their way to the store in parts, past all services. A row stays for a day
-- after its file was made, so that a repeated call finds out.
CREATE TABLE mlflow_uploads (
    team text NOT NULL,
    uid text NOT NULL,
    path text COLLATE "C" NOT NULL,
    -- The store's own id of it.
    store_id text NOT NULL,
    create_time timestamptz NOT NULL,
    done boolean NOT NULL DEFAULT false,
    PRIMARY KEY (team, uid)
);
CREATE INDEX mlflow_uploads_by_time ON mlflow_uploads (create_time);

-- Files as MLflow's clients keep them: by a path, one by one. Their bytes are blobs like those of versions; what
-- holds them is the row's uid.
CREATE TABLE mlflow_files (
    team text NOT NULL,
    path text COLLATE "C" NOT NULL,
    uid text NOT NULL,
    size bigint NOT NULL,
    digest text NOT NULL,
    part_digests text[] NOT NULL,
    part_sizes bigint[] NOT NULL,
    create_time timestamptz NOT NULL,
    PRIMARY KEY (team, path)
);

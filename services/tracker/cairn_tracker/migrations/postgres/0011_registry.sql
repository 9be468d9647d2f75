-- A registered model can be renamed, and its artifact with it.
ALTER TABLE versions
    DROP CONSTRAINT versions_team_artifact_fkey,
    ADD CONSTRAINT versions_team_artifact_fkey
        FOREIGN KEY (team, artifact) REFERENCES artifacts ON UPDATE CASCADE;
ALTER TABLE aliases
    DROP CONSTRAINT aliases_team_artifact_number_fkey,
    ADD CONSTRAINT aliases_team_artifact_number_fkey
        FOREIGN KEY (team, artifact, number) REFERENCES versions ON UPDATE CASCADE;

-- What the registry adds to an artifact of kind model. One without a row here is registered under its id.
CREATE TABLE registered_models (
    team text NOT NULL,
    artifact text NOT NULL,
    name text NOT NULL,
    description text NOT NULL DEFAULT '',
    tags jsonb NOT NULL DEFAULT '{}',
    create_time timestamptz NOT NULL,
    update_time timestamptz NOT NULL,
    PRIMARY KEY (team, artifact),
    UNIQUE (team, name),
    FOREIGN KEY (team, artifact) REFERENCES artifacts ON UPDATE CASCADE
);

-- What the registry adds to a version of such an artifact. One without a row here was committed as files.
CREATE TABLE model_versions (
    version_uid text PRIMARY KEY REFERENCES versions (uid),
    -- Empty: the version's own files.
    source text NOT NULL DEFAULT '',
    location text NOT NULL DEFAULT '',
    run_id text NOT NULL DEFAULT '',
    run_link text NOT NULL DEFAULT '',
    model_id text NOT NULL DEFAULT '',
    description text NOT NULL DEFAULT '',
    stage text NOT NULL DEFAULT 'None',
    tags jsonb NOT NULL DEFAULT '{}',
    update_time timestamptz NOT NULL
);

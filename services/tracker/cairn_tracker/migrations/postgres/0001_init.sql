-- Named groups of runs, made by the first run that names one.
CREATE TABLE experiments (
    team text NOT NULL,
    id text NOT NULL,
    uid text NOT NULL UNIQUE,
    create_time timestamptz NOT NULL,
    update_time timestamptz NOT NULL,
    PRIMARY KEY (team, id)
);

-- Records of work. The team is part of every key: what another team has is out of reach, not just hidden.
CREATE TABLE runs (
    team text NOT NULL,
    uid text NOT NULL,
    display_name text NOT NULL DEFAULT '',
    create_time timestamptz NOT NULL,
    update_time timestamptz NOT NULL,
    state smallint NOT NULL,
    revision bigint NOT NULL DEFAULT 1,
    creator text NOT NULL DEFAULT '',
    experiment text NOT NULL,
    has_job boolean NOT NULL,
    -- Of the last scheduler's event that was applied; 0: none yet.
    job_revision bigint NOT NULL DEFAULT 0,
    sweep text NOT NULL DEFAULT '',
    params jsonb NOT NULL DEFAULT '{}',
    tags text[] NOT NULL DEFAULT '{}',
    command text NOT NULL DEFAULT '',
    environment jsonb NOT NULL DEFAULT '{}',
    code_digest text NOT NULL DEFAULT '',
    code_size bigint NOT NULL DEFAULT 0,
    git_commit text NOT NULL DEFAULT '',
    git_branch text NOT NULL DEFAULT '',
    git_diff text NOT NULL DEFAULT '',
    start_time timestamptz,
    end_time timestamptz,
    cause text NOT NULL DEFAULT '',
    message text NOT NULL DEFAULT '',
    complete boolean NOT NULL DEFAULT false,
    -- Lines numbered so far; a reader goes no further, for what lies beyond is not committed.
    line_count bigint NOT NULL DEFAULT 0,
    -- Points that could not be kept: an unusable key or step.
    rejected_points bigint NOT NULL DEFAULT 0,
    request_id text NOT NULL DEFAULT '',
    PRIMARY KEY (team, uid)
);
CREATE INDEX runs_by_time ON runs (team, create_time DESC, uid DESC);
CREATE INDEX runs_by_experiment ON runs (team, experiment, create_time DESC, uid DESC);
CREATE INDEX runs_by_sweep ON runs (team, sweep) WHERE sweep <> '';
CREATE UNIQUE INDEX runs_by_request ON runs (team, creator, request_id) WHERE request_id <> '';
CREATE INDEX runs_incomplete ON runs (end_time) WHERE NOT complete AND state >= 4;

CREATE TABLE attempts (
    team text NOT NULL,
    run_uid text NOT NULL,
    number integer NOT NULL,
    uid text NOT NULL DEFAULT '',
    state text NOT NULL DEFAULT '',
    cause text NOT NULL DEFAULT '',
    resumed_step bigint,
    start_time timestamptz,
    end_time timestamptz,
    drained boolean NOT NULL DEFAULT false,
    PRIMARY KEY (team, run_uid, number),
    FOREIGN KEY (team, run_uid) REFERENCES runs ON DELETE CASCADE
);

-- What each metric of a run came to.
CREATE TABLE summaries (
    team text NOT NULL,
    run_uid text NOT NULL,
    key text NOT NULL,
    last float8 NOT NULL,
    last_step bigint NOT NULL,
    count bigint NOT NULL,
    min float8,
    min_step bigint NOT NULL DEFAULT 0,
    max float8,
    max_step bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (team, run_uid, key),
    FOREIGN KEY (team, run_uid) REFERENCES runs ON DELETE CASCADE
);

-- Which bytes of each writer's segments were applied. Ranges, not one mark: after a reconnection a writer's
-- later batch can arrive before an earlier one.
CREATE TABLE marks (
    team text NOT NULL,
    run_uid text NOT NULL,
    writer text NOT NULL,
    segment bigint NOT NULL,
    ranges int8multirange NOT NULL,
    PRIMARY KEY (team, run_uid, writer, segment),
    FOREIGN KEY (team, run_uid) REFERENCES runs ON DELETE CASCADE
);

-- Which lines of each writer were applied, by their numbers: a spool that is read again after a crash can be
-- cut into batches elsewhere, and a line must still be there once.
CREATE TABLE line_marks (
    team text NOT NULL,
    run_uid text NOT NULL,
    attempt integer NOT NULL,
    rank integer NOT NULL,
    writer text NOT NULL,
    ranges int8multirange NOT NULL,
    PRIMARY KEY (team, run_uid, attempt, rank, writer),
    FOREIGN KEY (team, run_uid) REFERENCES runs ON DELETE CASCADE
);

-- Up to when the scheduler's jobs were read.
CREATE TABLE cursors (
    name text PRIMARY KEY,
    time timestamptz NOT NULL
);

-- Names under which versions are kept. The row's lock gives out version numbers.
CREATE TABLE artifacts (
    team text NOT NULL,
    id text NOT NULL,
    uid text NOT NULL UNIQUE,
    kind smallint NOT NULL,
    create_time timestamptz NOT NULL,
    latest_version bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (team, id)
);

-- Sets of files, never changed after their commit.
CREATE TABLE versions (
    team text NOT NULL,
    artifact text NOT NULL,
    number bigint NOT NULL,
    uid text NOT NULL UNIQUE,
    kind smallint NOT NULL,
    create_time timestamptz NOT NULL,
    creator text NOT NULL,
    -- Empty: made outside a run.
    run_uid text NOT NULL DEFAULT '',
    step bigint,
    metadata jsonb NOT NULL DEFAULT '{}',
    size bigint NOT NULL,
    digest text NOT NULL,
    request_id text NOT NULL DEFAULT '',
    -- The order of commits, whatever the clock does.
    seq bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
    PRIMARY KEY (team, artifact, number),
    FOREIGN KEY (team, artifact) REFERENCES artifacts
);
CREATE UNIQUE INDEX versions_by_request ON versions (team, request_id) WHERE request_id <> '';
CREATE INDEX versions_by_run ON versions (team, run_uid, seq DESC) WHERE run_uid <> '';
CREATE INDEX versions_by_team ON versions (team, seq DESC);

CREATE TABLE entries (
    version_uid text NOT NULL REFERENCES versions (uid),
    path text NOT NULL,
    size bigint NOT NULL,
    digest text NOT NULL,
    part_digests text[] NOT NULL,
    part_sizes bigint[] NOT NULL,
    PRIMARY KEY (version_uid, path)
);

CREATE TABLE aliases (
    team text NOT NULL,
    artifact text NOT NULL,
    alias text NOT NULL,
    number bigint NOT NULL,
    PRIMARY KEY (team, artifact, alias),
    FOREIGN KEY (team, artifact, number) REFERENCES versions
);

-- Versions that a version was made from.
CREATE TABLE sources (
    version_uid text NOT NULL REFERENCES versions (uid),
    position integer NOT NULL,
    source_uid text NOT NULL REFERENCES versions (uid),
    PRIMARY KEY (version_uid, position)
);

-- Versions that a run read.
CREATE TABLE uses (
    team text NOT NULL,
    run_uid text NOT NULL,
    version_uid text NOT NULL REFERENCES versions (uid),
    create_time timestamptz NOT NULL,
    PRIMARY KEY (team, run_uid, version_uid)
);
CREATE INDEX uses_by_version ON uses (version_uid);

-- What is known to be in the store, with its true size.
CREATE TABLE blobs (
    team text NOT NULL,
    digest text NOT NULL,
    size bigint NOT NULL,
    create_time timestamptz NOT NULL,
    PRIMARY KEY (team, digest)
);

-- Jobs: the row is the state. Steps are those of model.STEPS; a test compares the two.
CREATE TABLE jobs (
    uid text PRIMARY KEY,
    team text NOT NULL,
    -- Empty: not idempotent. The digest tells the same request from another one under its id.
    request_id text NOT NULL DEFAULT '',
    request_digest bytea NOT NULL DEFAULT '',
    sweep_uid text NOT NULL DEFAULT '',
    sweep_index integer NOT NULL DEFAULT 0,
    display_name text NOT NULL,
    creator text NOT NULL,
    experiment text NOT NULL,
    priority integer NOT NULL CHECK (priority BETWEEN -1000 AND 1000),
    state text NOT NULL CHECK (state IN (
        'PENDING', 'ADMITTED', 'LAUNCHING', 'RUNNING', 'RECOVERING',
        'SUCCEEDED', 'FAILED', 'CANCELLED', 'TIMED_OUT')),
    revision bigint NOT NULL CHECK (revision > 0),
    reason text NOT NULL,
    cause text,
    message text NOT NULL,
    task text NOT NULL,
    setup text NOT NULL,
    run text NOT NULL,
    envs jsonb NOT NULL,
    params jsonb NOT NULL,
    num_nodes integer NOT NULL CHECK (num_nodes > 0),
    -- Of one rank.
    cpu_milli bigint NOT NULL CHECK (cpu_milli > 0),
    gpus bigint NOT NULL CHECK (gpus >= 0),
    accelerator text NOT NULL,
    memory_mib bigint NOT NULL CHECK (memory_mib >= 0),
    max_retries integer NOT NULL CHECK (max_retries >= 0),
    -- Seconds.
    max_runtime double precision,
    grace double precision NOT NULL,
    code_digest text NOT NULL,
    code_size bigint NOT NULL,
    git_commit text NOT NULL,
    git_branch text NOT NULL,
    git_diff text NOT NULL,
    admissions integer NOT NULL DEFAULT 0,
    pool text NOT NULL DEFAULT '',
    -- How often a later job took what this one lacks, while it waited.
    overtaken integer NOT NULL DEFAULT 0,
    create_time timestamptz NOT NULL,
    update_time timestamptz NOT NULL,
    cancel_time timestamptz,
    start_time timestamptz,
    end_time timestamptz,
    retry_time timestamptz,
    CHECK ((end_time IS NOT NULL) = (state IN ('SUCCEEDED', 'FAILED', 'CANCELLED', 'TIMED_OUT'))),
    CHECK (state NOT IN ('ADMITTED', 'LAUNCHING', 'RUNNING', 'RECOVERING') OR (pool <> '' AND admissions > 0)),
    CHECK (state <> 'RECOVERING' OR retry_time IS NOT NULL)
);

CREATE UNIQUE INDEX jobs_by_request ON jobs (team, request_id) WHERE request_id <> '';
CREATE INDEX jobs_by_team ON jobs (team, create_time DESC, uid DESC);
CREATE INDEX jobs_by_update ON jobs (update_time, uid);
CREATE INDEX jobs_by_sweep ON jobs (sweep_uid, sweep_index) WHERE sweep_uid <> '';
CREATE INDEX jobs_open ON jobs (state) WHERE end_time IS NULL;

CREATE TABLE sweeps (
    uid text PRIMARY KEY,
    team text NOT NULL,
    request_id text NOT NULL DEFAULT '',
    request_digest bytea NOT NULL DEFAULT '',
    display_name text NOT NULL,
    creator text NOT NULL,
    experiment text NOT NULL,
    create_time timestamptz NOT NULL
);

CREATE UNIQUE INDEX sweeps_by_request ON sweeps (team, request_id) WHERE request_id <> '';

CREATE TABLE attempts (
    uid text PRIMARY KEY,
    job_uid text NOT NULL REFERENCES jobs (uid),
    number integer NOT NULL CHECK (number > 0),
    state text NOT NULL CHECK (state IN ('LAUNCHING', 'RUNNING', 'SUCCEEDED', 'FAILED', 'CANCELLED')),
    cluster text NOT NULL,
    cause text,
    exit_code integer,
    signal integer NOT NULL DEFAULT 0,
    message text NOT NULL DEFAULT '',
    create_time timestamptz NOT NULL,
    start_time timestamptz,
    end_time timestamptz,
    pids bigint[] NOT NULL DEFAULT '{}',
    -- The run token's uid at the quota service, never its secret; empty: none, or revoked.
    token_uid text NOT NULL DEFAULT '',
    -- Nothing of it is left to do: everything it wrote is told, its folder is tidy, its token is revoked.
    close_time timestamptz,
    UNIQUE (job_uid, number),
    CHECK ((end_time IS NOT NULL) = (state IN ('SUCCEEDED', 'FAILED', 'CANCELLED')))
);

-- One active attempt per job, whatever the code does.
CREATE UNIQUE INDEX attempts_active ON attempts (job_uid) WHERE state IN ('LAUNCHING', 'RUNNING');
CREATE INDEX attempts_open ON attempts (create_time) WHERE close_time IS NULL;

CREATE FUNCTION jobs_step() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.revision NOT IN (OLD.revision, OLD.revision + 1) THEN
        RAISE EXCEPTION 'job %: revision % cannot follow %', OLD.uid, NEW.revision, OLD.revision
            USING ERRCODE = 'check_violation';
    END IF;
    IF OLD.end_time IS NOT NULL AND NEW.revision <> OLD.revision THEN
        RAISE EXCEPTION 'job % has ended as %', OLD.uid, OLD.state USING ERRCODE = 'check_violation';
    END IF;
    IF NEW.state = OLD.state THEN
        RETURN NEW;
    END IF;
    IF NEW.revision = OLD.revision OR (OLD.state, NEW.state) NOT IN (
        ('PENDING', 'ADMITTED'), ('PENDING', 'CANCELLED'),
        ('ADMITTED', 'LAUNCHING'), ('ADMITTED', 'CANCELLED'),
        ('LAUNCHING', 'RUNNING'), ('LAUNCHING', 'RECOVERING'), ('LAUNCHING', 'PENDING'),
        ('LAUNCHING', 'FAILED'), ('LAUNCHING', 'CANCELLED'), ('LAUNCHING', 'TIMED_OUT'),
        ('RUNNING', 'SUCCEEDED'), ('RUNNING', 'RECOVERING'), ('RUNNING', 'PENDING'),
        ('RUNNING', 'FAILED'), ('RUNNING', 'CANCELLED'), ('RUNNING', 'TIMED_OUT'),
        ('RECOVERING', 'LAUNCHING'), ('RECOVERING', 'PENDING'), ('RECOVERING', 'CANCELLED')
    ) THEN
        RAISE EXCEPTION 'job % cannot go from % to %', OLD.uid, OLD.state, NEW.state
            USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END
$$;

CREATE TRIGGER jobs_step BEFORE UPDATE ON jobs FOR EACH ROW EXECUTE FUNCTION jobs_step();

CREATE FUNCTION attempts_step() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.state <> OLD.state AND (OLD.state, NEW.state) NOT IN (
        ('LAUNCHING', 'RUNNING'), ('LAUNCHING', 'FAILED'), ('LAUNCHING', 'CANCELLED'),
        ('RUNNING', 'SUCCEEDED'), ('RUNNING', 'FAILED'), ('RUNNING', 'CANCELLED')
    ) THEN
        RAISE EXCEPTION 'attempt % cannot go from % to %', OLD.uid, OLD.state, NEW.state
            USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END
$$;

CREATE TRIGGER attempts_step BEFORE UPDATE ON attempts FOR EACH ROW EXECUTE FUNCTION attempts_step();

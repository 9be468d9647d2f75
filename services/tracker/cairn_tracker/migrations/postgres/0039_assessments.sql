-- What people, judges and programs say of traces, as MLflow's clients tell it.
CREATE TABLE assessments (
    team text NOT NULL,
    trace_id text NOT NULL,
    assessment_id text NOT NULL,
    name text NOT NULL,
    span_id text NOT NULL DEFAULT '',
    source_type text NOT NULL,
    source_id text NOT NULL DEFAULT '',
    -- Milliseconds since 1970.
    create_time bigint NOT NULL,
    update_time bigint NOT NULL,
    -- What should have come; otherwise what somebody thinks of what came.
    expected boolean NOT NULL,
    content jsonb NOT NULL,
    rationale text NOT NULL DEFAULT '',
    metadata jsonb NOT NULL DEFAULT '{}',
    -- The id of one that this takes the place of; that one is not valid then.
    overrides text NOT NULL DEFAULT '',
    valid boolean NOT NULL DEFAULT true,
    PRIMARY KEY (team, trace_id, assessment_id),
    FOREIGN KEY (team, trace_id) REFERENCES traces ON DELETE CASCADE
);

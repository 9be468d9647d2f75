-- What applications did for one request, as MLflow's clients and OpenTelemetry's exporters tell it.
CREATE TABLE traces (
    team text NOT NULL,
    trace_id text NOT NULL,
    experiment_id text NOT NULL,
    client_request_id text NOT NULL DEFAULT '',
    request_preview text NOT NULL DEFAULT '',
    response_preview text NOT NULL DEFAULT '',
    -- Milliseconds.
    request_time bigint NOT NULL,
    execution_duration bigint,
    -- The numbers of cairn.tracker.v1.Trace.State.
    state smallint NOT NULL,
    metadata jsonb NOT NULL DEFAULT '{}',
    tags jsonb NOT NULL DEFAULT '{}',
    -- Its client said what it is; until then that follows from its spans.
    told boolean NOT NULL,
    has_spans boolean NOT NULL DEFAULT false,
    PRIMARY KEY (team, trace_id)
);
CREATE INDEX traces_by_time ON traces (team, experiment_id, request_time DESC, trace_id);

CREATE TABLE spans (
    team text NOT NULL,
    trace_id text NOT NULL,
    -- Hexadecimal.
    span_id text NOT NULL,
    -- Nanoseconds since 1970.
    start_time bigint NOT NULL,
    -- A cairn.tracker.v1.Span.
    content bytea NOT NULL,
    PRIMARY KEY (team, trace_id, span_id),
    FOREIGN KEY (team, trace_id) REFERENCES traces ON DELETE CASCADE
);

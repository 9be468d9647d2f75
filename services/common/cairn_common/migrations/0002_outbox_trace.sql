-- The trace in which a fact came about (W3C traceparent); it goes on with the fact. Empty outside of one.
ALTER TABLE outbox ADD COLUMN trace text NOT NULL DEFAULT '';

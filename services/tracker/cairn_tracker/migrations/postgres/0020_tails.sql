-- How often steps of a metric up to its last one were logged late, or over: who follows it reads it anew then.
ALTER TABLE summaries ADD COLUMN revisits bigint NOT NULL DEFAULT 0;

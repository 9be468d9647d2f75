-- How often a try had saved the step before: each time is a checkpoint of its own.
ALTER TABLE shards ADD COLUMN round integer NOT NULL DEFAULT 0;
ALTER TABLE shards DROP CONSTRAINT shards_pkey;
ALTER TABLE shards ADD PRIMARY KEY (team, run_uid, artifact, attempt, step, ranks, round, rank);

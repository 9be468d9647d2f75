-- What the last bucket of 1,024 steps of a metric holds, so that later points can be added to it. NULL: not known,
-- then it is worked out from the points.
ALTER TABLE summaries
    ADD COLUMN tail_first bigint,
    ADD COLUMN tail_count bigint,
    ADD COLUMN tail_min float8,
    ADD COLUMN tail_min_step bigint,
    ADD COLUMN tail_max float8,
    ADD COLUMN tail_max_step bigint;

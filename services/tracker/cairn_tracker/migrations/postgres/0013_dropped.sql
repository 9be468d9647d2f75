-- Points that were lost where they were logged, as the run's processes tell.
ALTER TABLE runs ADD COLUMN dropped_points bigint NOT NULL DEFAULT 0;

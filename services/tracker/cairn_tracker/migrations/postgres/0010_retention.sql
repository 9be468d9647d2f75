-- Rules by which versions go by themselves: [{kind, experiment, keep_last, keep_best, metric, lowest, keep_for}].
ALTER TABLE keeping
    ADD COLUMN retention jsonb NOT NULL DEFAULT '[]',
    ADD COLUMN revision bigint NOT NULL DEFAULT 1;

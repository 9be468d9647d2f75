-- What people say of a run, and which metric its metrics are drawn over: {key, with `*`: metric}.
ALTER TABLE runs ADD COLUMN run_group text NOT NULL DEFAULT '';
ALTER TABLE runs ADD COLUMN notes text NOT NULL DEFAULT '';
ALTER TABLE runs ADD COLUMN axes jsonb NOT NULL DEFAULT '{}';
CREATE INDEX runs_by_group ON runs (team, run_group) WHERE run_group <> '';

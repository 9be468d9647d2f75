-- Rules by which points and lines go: [{record, experiment, keep_for}].
ALTER TABLE keeping ADD COLUMN records jsonb NOT NULL DEFAULT '[]';
ALTER TABLE runs
    -- When raw points, and lines, were last dropped; none: never.
    ADD COLUMN points_drop_time timestamptz,
    ADD COLUMN lines_drop_time timestamptz,
    -- When it was last looked whether any points can go.
    ADD COLUMN points_looked timestamptz,
    -- The last line that was dropped; they are numbered from 1.
    ADD COLUMN dropped_lines bigint NOT NULL DEFAULT 0,
    -- What was dropped is, or may be, in the store still.
    ADD COLUMN drop_open boolean NOT NULL DEFAULT false;
CREATE INDEX runs_drop_open ON runs (team, uid) WHERE drop_open;

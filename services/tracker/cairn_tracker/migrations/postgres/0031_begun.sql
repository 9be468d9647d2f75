-- When a run without a job was begun last, by whichever of its processes.
ALTER TABLE runs ADD COLUMN begin_time timestamptz;

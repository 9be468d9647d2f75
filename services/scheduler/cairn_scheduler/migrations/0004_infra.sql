-- Where a job shall run, in SkyPilot's words; empty: on the scheduler's machine.
ALTER TABLE jobs ADD COLUMN infra text NOT NULL DEFAULT '';
-- It ended because there was no room for it: such an attempt does not count as a failure.
ALTER TABLE attempts ADD COLUMN no_capacity boolean NOT NULL DEFAULT false;

-- When the bus last stored something of a run. Not a part of its revision: it changes every few seconds.
ALTER TABLE runs ADD COLUMN last_seen timestamptz;

-- A gang on a cluster elsewhere has a runner a rank: whose last words are here. `drained`: all of them are.
ALTER TABLE attempts ADD COLUMN drained_ranks integer[] NOT NULL DEFAULT '{}';

-- What a job was submitted to run after, as model.Dependency: a list of {uid, title, sweep, any}.
ALTER TABLE jobs ADD COLUMN after jsonb NOT NULL DEFAULT '[]';

-- Those that still wait for it: looked at each time that something may have ended.
CREATE INDEX jobs_dependent ON jobs (uid) WHERE state = 'HELD' AND hold = 'DEPENDENCY';

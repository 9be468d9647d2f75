-- The job that this one was made from, as origin.Origin: {kind, job, checkpoint}; {}: none.
ALTER TABLE jobs ADD COLUMN origin jsonb NOT NULL DEFAULT '{}';

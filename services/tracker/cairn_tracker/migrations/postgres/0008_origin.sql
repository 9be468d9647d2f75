-- The run that this one was made from, as model.Origin: {kind, run, checkpoint, step}; {}: none.
ALTER TABLE runs ADD COLUMN origin jsonb NOT NULL DEFAULT '{}';

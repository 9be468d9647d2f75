-- What a run was asked for under its request_id, so that the same id with another request is refused; null for
-- runs from before.
ALTER TABLE runs ADD COLUMN request_digest bytea;

-- What a version of the tree was asked for under its request_id, so that the same id with another request is refused;
-- null for versions from before.
ALTER TABLE tree_versions ADD COLUMN request_digest bytea;

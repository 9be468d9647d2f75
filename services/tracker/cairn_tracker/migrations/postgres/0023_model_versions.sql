-- Versions of models among all the others, most of which are checkpoints.
CREATE INDEX versions_of_models ON versions (team, artifact, number) WHERE kind = 3 AND delete_time IS NULL;

-- Runs of an experiment as searches of MLflow's clients have them when nothing else was asked: those that have not
-- begun come last. The index before this one had them first, which served no search.
CREATE INDEX runs_newest ON runs (team, experiment, start_time DESC NULLS LAST, uid) WHERE delete_time IS NULL;
DROP INDEX runs_by_start;

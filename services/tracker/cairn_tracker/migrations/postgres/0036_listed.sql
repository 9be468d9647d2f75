-- Lists show no run that was deleted. Whether one is stands at the end of its row, behind all else that has to be
-- walked through to get there: an index of those that are not answers it for all.
CREATE INDEX runs_listed ON runs (team, create_time DESC, uid DESC) WHERE delete_time IS NULL;
DROP INDEX runs_by_time;
CREATE INDEX runs_listed_by_experiment ON runs (team, experiment, create_time DESC, uid DESC)
    WHERE delete_time IS NULL;
DROP INDEX runs_by_experiment;

-- The buckets of the points that are there already.
INSERT INTO rollups
SELECT team, run, key, intDiv(step, 1024) AS bucket, min(step), max(step), argMax(time, step),
    argMax(value, step),
    ifNull(minOrNullIf(value, isFinite(value)), nan), ifNull(argMinOrNullIf(step, value, isFinite(value)), 0),
    ifNull(maxOrNullIf(value, isFinite(value)), nan), ifNull(argMaxOrNullIf(step, value, isFinite(value)), 0),
    count()
FROM (
    SELECT team, run, key, step, time, value FROM points
    ORDER BY team, run, key, step, attempt DESC, time DESC, segment DESC, position DESC, cell DESC, writer DESC
    LIMIT 1 BY team, run, key, step)
GROUP BY team, run, key, bucket
SETTINGS max_bytes_before_external_sort = 268435456

-- Points in buckets of 1,024 steps, for charts of long series. A bucket is written again when it changes, and
-- the row inserted last counts. NaN stands for "no finite value" in min and max.
CREATE TABLE IF NOT EXISTS rollups
(
    team LowCardinality(String) CODEC(ZSTD(1)),
    run LowCardinality(String) CODEC(ZSTD(1)),
    key LowCardinality(String) CODEC(ZSTD(1)),
    bucket Int64 CODEC(DoubleDelta, ZSTD(1)),
    first_step Int64 CODEC(Delta, ZSTD(1)),
    last_step Int64 CODEC(Delta, ZSTD(1)),
    time Int64 CODEC(Delta, ZSTD(1)),
    last Float64 CODEC(ZSTD(1)),
    min Float64 CODEC(ZSTD(1)),
    min_step Int64 CODEC(Delta, ZSTD(1)),
    max Float64 CODEC(ZSTD(1)),
    max_step Int64 CODEC(Delta, ZSTD(1)),
    count Int64 CODEC(ZSTD(1))
)
ENGINE = ReplacingMergeTree
ORDER BY (team, run, key, bucket)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1,
    min_compressed_bytes_to_fsync_after_merge = 1

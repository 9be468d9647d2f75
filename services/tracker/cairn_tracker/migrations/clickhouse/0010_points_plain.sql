-- As before, columns and key; a row that was inserted twice stays twice.
CREATE TABLE IF NOT EXISTS points
(
    team LowCardinality(String) CODEC(ZSTD(1)),
    run LowCardinality(String) CODEC(ZSTD(1)),
    key LowCardinality(String) CODEC(ZSTD(1)),
    step Int64 CODEC(DoubleDelta, ZSTD(1)),
    attempt Int32 CODEC(ZSTD(1)),
    writer LowCardinality(String) CODEC(ZSTD(1)),
    segment Int64 CODEC(Delta, ZSTD(1)),
    position Int64 CODEC(Delta, ZSTD(1)),
    cell UInt32 CODEC(Delta, ZSTD(1)),
    -- Microseconds since 1970.
    time Int64 CODEC(GCD, Delta, ZSTD(3)),
    value Float64 CODEC(ZSTD(1))
)
ENGINE = MergeTree
ORDER BY (team, run, key, step, attempt, writer, segment, position, cell)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1,
    min_compressed_bytes_to_fsync_after_merge = 1,
    vertical_merge_algorithm_min_rows_to_activate = 1, vertical_merge_algorithm_min_columns_to_activate = 1

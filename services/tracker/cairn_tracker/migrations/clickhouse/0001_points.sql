-- Raw metric points, history kept. The key is a point's identity (where its event stood in its writer's
-- spool, and its cell in the event), so a second insert of the same point is the same row.
CREATE TABLE IF NOT EXISTS points
(
    team LowCardinality(String) CODEC(ZSTD(1)),
    run LowCardinality(String) CODEC(ZSTD(1)),
    key LowCardinality(String) CODEC(ZSTD(1)),
    step Int64 CODEC(DoubleDelta, ZSTD(1)),
    attempt Int32 CODEC(ZSTD(1)),
    writer LowCardinality(String) CODEC(ZSTD(1)),
    segment Int64 CODEC(ZSTD(1)),
    position Int64 CODEC(Delta, ZSTD(1)),
    cell UInt32 CODEC(Delta, ZSTD(1)),
    -- Microseconds since 1970.
    time Int64 CODEC(Delta, ZSTD(1)),
    value Float64 CODEC(ZSTD(1))
)
ENGINE = ReplacingMergeTree
ORDER BY (team, run, key, step, attempt, writer, segment, position, cell)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1,
    min_compressed_bytes_to_fsync_after_merge = 1

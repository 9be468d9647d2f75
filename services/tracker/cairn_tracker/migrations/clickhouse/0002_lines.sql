-- Console lines. `sequence` numbers a run's lines by arrival, from 1, without holes; it is given out under
-- the run's mark in PostgreSQL, so a line that is inserted again takes the same number.
CREATE TABLE IF NOT EXISTS lines
(
    team LowCardinality(String) CODEC(ZSTD(1)),
    run LowCardinality(String) CODEC(ZSTD(1)),
    sequence Int64 CODEC(DoubleDelta, ZSTD(1)),
    attempt Int32 CODEC(ZSTD(1)),
    rank Int32 CODEC(ZSTD(1)),
    stream LowCardinality(String) CODEC(ZSTD(1)),
    number Int64 CODEC(Delta, ZSTD(1)),
    time Float64 CODEC(ZSTD(1)),
    text String CODEC(ZSTD(3))
)
ENGINE = ReplacingMergeTree
ORDER BY (team, run, sequence)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1,
    min_compressed_bytes_to_fsync_after_merge = 1

-- Which pieces of three letters lines have, 8,192 lines at a time: who looks for words skips those without them.
-- A Bloom filter, as every version has it; it takes about a twentieth of what the lines take.
ALTER TABLE lines ADD INDEX IF NOT EXISTS grams lower(text) TYPE ngrambf_v1(3, 16384, 3, 0) GRANULARITY 1

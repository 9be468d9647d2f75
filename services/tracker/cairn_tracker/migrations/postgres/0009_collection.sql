-- Who keeps which bytes: a version from its commit to its deletion, a run its code and what it mounts.
CREATE TABLE holdings (
    team text NOT NULL,
    digest text NOT NULL,
    -- The uid of a version or a run.
    holder text NOT NULL,
    PRIMARY KEY (team, digest, holder)
);
INSERT INTO holdings (team, digest, holder)
SELECT DISTINCT v.team, unnest(e.part_digests), v.uid FROM versions v JOIN entries e ON e.version_uid = v.uid
WHERE v.delete_time IS NULL;
-- What jobs mount was not noted so far: all are read again.
DELETE FROM cursors WHERE name = 'scheduler.jobs';
INSERT INTO holdings (team, digest, holder)
SELECT team, code_digest, uid FROM runs WHERE code_digest <> '' ON CONFLICT DO NOTHING;

-- Bytes that perhaps nobody keeps: somebody asked to upload them, or a version that had them was deleted.
-- Nothing that never was in here is collected.
CREATE TABLE idle_blobs (
    team text NOT NULL,
    digest text NOT NULL,
    size bigint NOT NULL,
    -- The last time that somebody asked for them, or let go of them.
    since timestamptz NOT NULL,
    -- Versions were made of them; else an upload was given up.
    committed boolean NOT NULL DEFAULT false,
    -- They are being deleted from the store, and are missing for everybody from here on.
    doomed boolean NOT NULL DEFAULT false,
    -- Who is deleting them, since when: two who did would also delete what was uploaded anew in between.
    claim text NOT NULL DEFAULT '',
    claim_time timestamptz,
    PRIMARY KEY (team, digest)
);
CREATE INDEX idle_blobs_by_time ON idle_blobs (since) WHERE NOT doomed;
CREATE INDEX idle_blobs_doomed ON idle_blobs (team, digest) WHERE doomed;
INSERT INTO idle_blobs (team, digest, size, since, committed)
SELECT DISTINCT ON (b.team, b.digest) b.team, b.digest, b.size, v.delete_time, true
FROM versions v JOIN entries e ON e.version_uid = v.uid JOIN LATERAL unnest(e.part_digests) p (digest) ON true
JOIN blobs b ON (b.team, b.digest) = (v.team, p.digest)
WHERE v.delete_time IS NOT NULL ORDER BY b.team, b.digest, v.delete_time DESC;

-- Counts the collections of a team: a commit that checked its parts in an earlier one checks them again.
CREATE TABLE collections (
    team text PRIMARY KEY,
    epoch bigint NOT NULL
);

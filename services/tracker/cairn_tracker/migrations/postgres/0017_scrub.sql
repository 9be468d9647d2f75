-- When a blob's bytes were last read; what lies longest unread is read first.
ALTER TABLE blobs ADD COLUMN check_time timestamptz;
UPDATE blobs SET check_time = create_time;
ALTER TABLE blobs ALTER COLUMN check_time SET NOT NULL;
CREATE INDEX blobs_by_check ON blobs (check_time);

-- Bytes in the store that are not what they were: they count as missing until they were uploaded anew.
CREATE TABLE rotten_blobs (
    team text NOT NULL,
    digest text NOT NULL,
    -- Nothing is there; else other bytes are.
    missing boolean NOT NULL,
    time timestamptz NOT NULL,
    PRIMARY KEY (team, digest)
);

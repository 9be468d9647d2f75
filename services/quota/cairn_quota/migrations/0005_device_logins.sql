-- A command line that waits for somebody to say, in a browser, that it may act as them.
CREATE TABLE device_logins (
    -- SHA-256 of the secret that the command line polls with, hexadecimal.
    hash text PRIMARY KEY CHECK (length(hash) = 64),
    -- What the person compares and confirms.
    code text NOT NULL UNIQUE,
    client text NOT NULL,
    address text NOT NULL,
    create_time timestamptz NOT NULL,
    expire_time timestamptz NOT NULL,
    -- users/{user} who confirmed it; NULL: nobody yet.
    subject text,
    -- The session may last no longer than what it was confirmed with.
    latest timestamptz
);

CREATE INDEX device_logins_by_time ON device_logins (expire_time);

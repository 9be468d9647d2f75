-- A command line on a person's own machine, which they have let in by their browser there: until it asks.
CREATE TABLE loopback_logins (
    -- SHA-256 of the code that the browser brings it, hexadecimal.
    hash text PRIMARY KEY CHECK (length(hash) = 64),
    subject text NOT NULL CHECK (subject LIKE 'users/%'),
    -- PKCE, S256.
    challenge text NOT NULL CHECK (length(challenge) = 43),
    redirect_uri text NOT NULL,
    -- The session may last no longer than what it was allowed with.
    latest timestamptz,
    expire_time timestamptz NOT NULL
);

CREATE INDEX loopback_logins_by_time ON loopback_logins (expire_time);

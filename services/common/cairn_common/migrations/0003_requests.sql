-- Requests that made something under an id of their caller's choice, and what they were answered, for a day.
CREATE TABLE requests (
    caller text NOT NULL,
    request_id text NOT NULL,
    -- The request's message, by its full name.
    kind text NOT NULL,
    digest bytea NOT NULL,
    -- The name of what was made.
    made text NOT NULL DEFAULT '',
    -- The answer; null once its secret is not told again.
    answer bytea,
    -- Whether the answer holds a secret: then it is sealed with the caller's own token, which is kept nowhere.
    sealed boolean NOT NULL DEFAULT false,
    create_time timestamptz NOT NULL,
    PRIMARY KEY (caller, request_id)
);

CREATE INDEX requests_by_time ON requests (create_time);

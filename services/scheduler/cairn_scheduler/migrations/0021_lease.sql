-- Which of several schedulers decides. Each of its writes holds this row (FOR SHARE) at its epoch; who takes
-- over writes the row, and so waits for what is under way and fails all that comes later.
CREATE TABLE lease (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    epoch bigint NOT NULL DEFAULT 0,
    -- The application_name of its connections; empty: nobody's.
    holder text NOT NULL DEFAULT '',
    -- Where that process is, as far as others there can see whether it lives: boot:namespace:pid:start.
    place text NOT NULL DEFAULT '',
    -- The platform's own id: a data folder belongs to one platform.
    platform text NOT NULL DEFAULT gen_random_uuid()::text
);

INSERT INTO lease DEFAULT VALUES;

-- Apart from the row above, so that a sign of life waits for nobody.
CREATE TABLE lease_beat (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    epoch bigint NOT NULL DEFAULT 0,
    beat_time timestamptz NOT NULL DEFAULT '-infinity'
);

INSERT INTO lease_beat DEFAULT VALUES;

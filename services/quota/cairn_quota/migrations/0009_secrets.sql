-- Values that jobs get in their environment by their names.
CREATE TABLE secrets (
    uid text PRIMARY KEY,
    -- teams/{team} or users/{user}
    owner text NOT NULL CHECK (owner LIKE 'teams/%' OR owner LIKE 'users/%'),
    variable text NOT NULL,
    -- Encrypted, and bound to owner and variable: in another row it does not open.
    sealed bytea NOT NULL,
    -- Who gave the present value.
    setter text NOT NULL,
    create_time timestamptz NOT NULL,
    update_time timestamptz NOT NULL,
    -- When an attempt last got it.
    use_time timestamptz,
    UNIQUE (owner, variable)
);

-- Facts that are committed and not told yet. The relay publishes them by seq and deletes what the bus has.
CREATE TABLE outbox (
    seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id text NOT NULL UNIQUE,
    subject text NOT NULL,
    payload bytea NOT NULL,
    create_time timestamptz NOT NULL DEFAULT now()
);

-- Wakes the relay at commit; the channel carries the schema's name, for channels are the database's.
CREATE FUNCTION outbox_added() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('outbox_' || TG_TABLE_SCHEMA, '');
    RETURN NULL;
END
$$;

CREATE TRIGGER outbox_added AFTER INSERT ON outbox
    FOR EACH STATEMENT EXECUTE FUNCTION outbox_added();

-- What a consumer has applied already, by the fact's id.
CREATE TABLE inbox (
    consumer text NOT NULL,
    id text NOT NULL,
    create_time timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (consumer, id)
);

CREATE INDEX inbox_by_time ON inbox (create_time);

-- Messages that a consumer could not apply, kept for an operator to read and to replay.
CREATE TABLE dead_letters (
    consumer text NOT NULL,
    stream text NOT NULL,
    sequence bigint NOT NULL,
    subject text NOT NULL,
    payload bytea NOT NULL,
    msg_id text NOT NULL DEFAULT '',
    error text NOT NULL,
    tries integer NOT NULL,
    publish_time timestamptz NOT NULL,
    create_time timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (consumer, stream, sequence)
);

-- Searches by what params and metrics are, and pages sorted by them, out of indexes alone.

-- Each param that is a number (see run_number), by its name or by the way into nested ones.
CREATE TABLE run_numbers (
    team text NOT NULL,
    key text NOT NULL,
    number float8 NOT NULL,
    run_uid text NOT NULL,
    PRIMARY KEY (team, key, number, run_uid),
    FOREIGN KEY (team, run_uid) REFERENCES runs ON DELETE CASCADE
);
CREATE INDEX run_numbers_by_run ON run_numbers (team, run_uid);

-- Lists are not gone into. A name with dots in it hides what the same way into nested params leads to.
CREATE FUNCTION param_numbers(params jsonb) RETURNS TABLE (key text, number float8)
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    WITH RECURSIVE found (key, value, own) AS (
        SELECT top.key, top.value, true FROM jsonb_each(params) AS top
        UNION ALL
        SELECT found.key || '.' || inner_.key, inner_.value, false
        FROM found CROSS JOIN LATERAL jsonb_each(
            CASE WHEN jsonb_typeof(found.value) = 'object' THEN found.value ELSE '{}' END) AS inner_
        WHERE strpos(inner_.key, '.') = 0 AND NOT (found.own AND strpos(found.key, '.') > 0)
    )
    SELECT key, run_number(value)
    FROM (SELECT DISTINCT ON (key) key, value FROM found ORDER BY key, own DESC) AS shown
    WHERE run_number(value) IS NOT NULL AND octet_length(key) <= 1000
$$;

CREATE FUNCTION note_run_numbers() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' THEN
        DELETE FROM run_numbers WHERE team = NEW.team AND run_uid = NEW.uid;
    END IF;
    INSERT INTO run_numbers (team, key, number, run_uid)
    SELECT NEW.team, key, number, NEW.uid FROM param_numbers(NEW.params);
    RETURN NULL;
END $$;
CREATE TRIGGER runs_numbered AFTER INSERT ON runs
    FOR EACH ROW WHEN (NEW.params <> '{}') EXECUTE FUNCTION note_run_numbers();
CREATE TRIGGER runs_renumbered AFTER UPDATE OF params ON runs
    FOR EACH ROW WHEN (OLD.params IS DISTINCT FROM NEW.params) EXECUTE FUNCTION note_run_numbers();

INSERT INTO run_numbers (team, key, number, run_uid)
SELECT r.team, n.key, n.number, r.uid FROM runs r CROSS JOIN LATERAL param_numbers(r.params) AS n;

-- With all that a search reads, so that it need not look at the rows, which lie anywhere.
CREATE INDEX summaries_by_worth ON summaries (team, key, last) INCLUDE (run_uid, min, max);
DROP INDEX summaries_by_value;

CREATE INDEX runs_by_tag ON runs USING gin (tags);

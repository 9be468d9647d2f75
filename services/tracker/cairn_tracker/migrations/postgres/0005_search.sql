-- Runs by what a metric came to.
CREATE INDEX summaries_by_value ON summaries (team, key, last);

-- A param as a number: of a job they are texts.
CREATE FUNCTION run_number(value jsonb) RETURNS float8 LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE jsonb_typeof(value)
        WHEN 'number' THEN CASE WHEN abs(value::numeric) < 1e308 THEN value::float8 END
        WHEN 'string' THEN CASE
            WHEN value #>> '{}' ~ '^\s*[-+]?([0-9]{1,30}\.?[0-9]{0,30}|\.[0-9]{1,30})([eE][-+]?[0-9]{1,2})?\s*$'
            THEN (value #>> '{}')::float8 END
    END
$$;

-- What a job's row alone forgets: when and why it waited, was held, admitted, or kept its place between attempts.
-- A list of {time, state, text}, times in seconds since 1970, the newest 200.
ALTER TABLE jobs ADD COLUMN history jsonb NOT NULL DEFAULT '[]';

-- Of reasons to wait, only another kind of reason (the words before the colon) is another entry.
CREATE FUNCTION jobs_remember() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.state = OLD.state AND split_part(NEW.reason, ':', 1) = split_part(OLD.reason, ':', 1) THEN
        RETURN NEW;
    END IF;
    IF jsonb_array_length(NEW.history) >= 200 THEN
        NEW.history := NEW.history - 0;
    END IF;
    NEW.history := NEW.history || jsonb_build_object(
        'time', extract(epoch FROM CASE WHEN NEW.state = OLD.state THEN clock_timestamp() ELSE NEW.update_time END),
        'state', NEW.state,
        'text', left(CASE WHEN NEW.state = 'ADMITTED' THEN NEW.pool ELSE NEW.reason END, 300)
    );
    RETURN NEW;
END
$$;

CREATE TRIGGER jobs_remember BEFORE UPDATE ON jobs FOR EACH ROW
    WHEN ((NEW.state <> OLD.state OR NEW.reason <> OLD.reason)
          AND NEW.state IN ('PENDING', 'HELD', 'ADMITTED', 'PREEMPTING', 'RECOVERING'))
    EXECUTE FUNCTION jobs_remember();

-- What the place said on the way to an attempt's machines; numbered from 1 in its order.
CREATE TABLE attempt_steps (
    attempt_uid text NOT NULL REFERENCES attempts (uid),
    number integer NOT NULL CHECK (number > 0),
    time timestamptz NOT NULL,
    text text NOT NULL,
    PRIMARY KEY (attempt_uid, number)
);

-- PREEMPTING: its place is taken, its attempt may still save a checkpoint. HELD: out of the queue.
ALTER TABLE jobs ADD COLUMN hold text NOT NULL DEFAULT '' CHECK (
    hold IN ('', 'USER', 'ADMIN', 'DEPENDENCY', 'BUDGET'));
-- When its last checkpoint was committed.
ALTER TABLE jobs ADD COLUMN checkpoint_time timestamptz;

-- It gave its place up on request: such an attempt does not count as a failure.
ALTER TABLE attempts ADD COLUMN yielded boolean NOT NULL DEFAULT false;

ALTER TABLE jobs DROP CONSTRAINT jobs_state_check, DROP CONSTRAINT jobs_check1;
ALTER TABLE jobs
    ADD CONSTRAINT jobs_state_check CHECK (state IN (
        'PENDING', 'ADMITTED', 'LAUNCHING', 'RUNNING', 'RECOVERING', 'PREEMPTING', 'HELD',
        'SUCCEEDED', 'FAILED', 'CANCELLED', 'TIMED_OUT')),
    ADD CONSTRAINT jobs_placed_check CHECK (
        state NOT IN ('ADMITTED', 'LAUNCHING', 'RUNNING', 'RECOVERING', 'PREEMPTING')
        OR (pool <> '' AND admissions > 0)),
    ADD CONSTRAINT jobs_held_check CHECK (state <> 'HELD' OR hold <> '');

CREATE OR REPLACE FUNCTION jobs_step() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.revision NOT IN (OLD.revision, OLD.revision + 1) THEN
        RAISE EXCEPTION 'job %: revision % cannot follow %', OLD.uid, NEW.revision, OLD.revision
            USING ERRCODE = 'check_violation';
    END IF;
    IF OLD.end_time IS NOT NULL AND NEW.revision <> OLD.revision THEN
        RAISE EXCEPTION 'job % has ended as %', OLD.uid, OLD.state USING ERRCODE = 'check_violation';
    END IF;
    IF NEW.state = OLD.state THEN
        RETURN NEW;
    END IF;
    IF NEW.revision = OLD.revision OR (OLD.state, NEW.state) NOT IN (
        ('PENDING', 'ADMITTED'), ('PENDING', 'CANCELLED'), ('PENDING', 'HELD'),
        ('HELD', 'PENDING'), ('HELD', 'CANCELLED'),
        ('ADMITTED', 'LAUNCHING'), ('ADMITTED', 'CANCELLED'), ('ADMITTED', 'PENDING'), ('ADMITTED', 'HELD'),
        ('LAUNCHING', 'RUNNING'), ('LAUNCHING', 'RECOVERING'), ('LAUNCHING', 'PREEMPTING'),
        ('LAUNCHING', 'PENDING'), ('LAUNCHING', 'FAILED'), ('LAUNCHING', 'CANCELLED'),
        ('LAUNCHING', 'TIMED_OUT'),
        ('RUNNING', 'SUCCEEDED'), ('RUNNING', 'RECOVERING'), ('RUNNING', 'PREEMPTING'),
        ('RUNNING', 'PENDING'), ('RUNNING', 'FAILED'), ('RUNNING', 'CANCELLED'), ('RUNNING', 'TIMED_OUT'),
        ('PREEMPTING', 'PENDING'), ('PREEMPTING', 'HELD'), ('PREEMPTING', 'SUCCEEDED'),
        ('PREEMPTING', 'FAILED'), ('PREEMPTING', 'CANCELLED'), ('PREEMPTING', 'TIMED_OUT'),
        ('RECOVERING', 'LAUNCHING'), ('RECOVERING', 'PENDING'), ('RECOVERING', 'HELD'),
        ('RECOVERING', 'CANCELLED')
    ) THEN
        RAISE EXCEPTION 'job % cannot go from % to %', OLD.uid, OLD.state, NEW.state
            USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END
$$;

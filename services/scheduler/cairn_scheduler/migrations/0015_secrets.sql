-- Names of a job's secrets; their values are in job_secrets, encrypted, for as long as an attempt may need them.
ALTER TABLE jobs ADD COLUMN secrets text[] NOT NULL DEFAULT '{}';

CREATE TABLE job_secrets (
    job_uid text PRIMARY KEY REFERENCES jobs (uid),
    sealed bytea NOT NULL
);

-- Whatever ends a job, its secrets end with it.
CREATE FUNCTION jobs_forget() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM job_secrets WHERE job_uid = NEW.uid;
    RETURN NULL;
END
$$;

CREATE TRIGGER jobs_forget AFTER UPDATE OF end_time ON jobs FOR EACH ROW
    WHEN (NEW.end_time IS NOT NULL AND OLD.end_time IS NULL AND NEW.secrets <> '{}') EXECUTE FUNCTION jobs_forget();

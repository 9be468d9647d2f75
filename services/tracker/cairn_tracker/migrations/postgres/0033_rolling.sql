-- A tracker of the release before may still write while this one comes up: what it leaves out has a value, and what
-- it keeps is noted as kept.
ALTER TABLE blobs ALTER COLUMN check_time SET DEFAULT now();

CREATE FUNCTION name_experiment() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.display_name := coalesce(NEW.display_name, NEW.id);
    RETURN NEW;
END $$;
CREATE TRIGGER experiments_named BEFORE INSERT ON experiments FOR EACH ROW EXECUTE FUNCTION name_experiment();

INSERT INTO holdings (team, digest, holder)
SELECT DISTINCT v.team, unnest(e.part_digests), v.uid
FROM versions v JOIN entries e ON e.version_uid = v.uid WHERE v.delete_time IS NULL
ON CONFLICT DO NOTHING;

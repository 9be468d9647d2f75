-- What an attempt asked SkyPilot for, as circuits.py names it; from these, circuits of "no room" are derived.
ALTER TABLE attempts ADD COLUMN circuits text[] NOT NULL DEFAULT '{}';

CREATE INDEX attempts_circuits ON attempts (create_time) WHERE circuits <> '{}';

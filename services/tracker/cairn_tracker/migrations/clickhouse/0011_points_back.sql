-- The parts as they are, by links.
ALTER TABLE points ATTACH PARTITION tuple() FROM points_before

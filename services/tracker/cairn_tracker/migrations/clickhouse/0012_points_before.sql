DROP TABLE IF EXISTS points_before

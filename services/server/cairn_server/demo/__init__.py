"""``cairn demo``: four trainings, one death, one result."""

"""PostgreSQL: every statement of the tracker, by noun. What takes a `conn` runs in its transaction."""

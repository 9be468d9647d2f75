"""Track runs, metrics, checkpoints and artifacts, with or without a server."""

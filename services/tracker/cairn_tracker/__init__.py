"""The tracker: experiments, runs, metrics, logs, artifacts and models."""

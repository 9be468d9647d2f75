"""The scheduler: jobs, attempts, sweeps, the queue, and where attempts run."""

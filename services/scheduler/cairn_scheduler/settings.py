"""What the scheduler reads from the environment (prefix ``CAIRN_``)."""

from __future__ import annotations

from pydantic import Field, SecretStr

from cairn_common.settings import ServiceSettings


class SchedulerSettings(ServiceSettings):
    """The common settings, and the scheduler's own. Build it with `load`."""

    # What this machine offers to jobs: cores (0.5 is allowed) and whole GPUs. Absent: what it has.
    local_cpus: float | None = Field(default=None, gt=0, le=100_000)
    local_gpus: int | None = Field(default=None, ge=0, le=1024)
    # SkyPilot's API server, as only this service may reach it; empty: jobs run on this machine alone.
    skypilot_url: str = ""
    # What the secrets of jobs are encrypted with, at least 32 characters: the same for all replicas. Empty:
    # a key that is made once in the data folder.
    secrets_key: SecretStr = SecretStr("")
    # Python environments of jobs are kept up to this size, those in use besides.
    local_environments_gib: int = Field(default=50, ge=1, le=100_000)

"""What the scheduler reads from the environment (prefix ``CAIRN_``)."""

from __future__ import annotations

from pydantic import Field, SecretStr

from cairn_common.settings import ServiceSettings
from cairn_scheduler.sky.opening import LOOK_SECONDS


class SchedulerSettings(ServiceSettings):
    """The common settings, and the scheduler's own. Build it with `load`."""

    # What this machine offers to jobs: cores (0.5 is allowed) and whole GPUs. Absent: what it has.
    local_cpus: float | None = Field(default=None, gt=0, le=100_000)
    local_gpus: int | None = Field(default=None, ge=0, le=1024)
    # SkyPilot's API server, as only this service may reach it; empty: jobs run on this machine alone.
    skypilot_url: str = ""
    # SkyPilot's clusters are looked at every so many seconds, for what is silent and what is nobody's.
    skypilot_look_seconds: float = Field(default=LOOK_SECONDS, ge=0.5, le=3600)
    # How long SkyPilot may look for a free machine before others are let through, in seconds.
    skypilot_provision_seconds: int = Field(default=120, ge=5, le=86_400)
    # What the secrets of jobs are encrypted with, at least 32 characters: the same for all replicas. Empty:
    # a key that is made once in the data folder.
    secrets_key: SecretStr = SecretStr("")
    # The one before it, while what was sealed under that is sealed anew.
    secrets_key_old: SecretStr = SecretStr("")
    # Python environments of jobs are kept up to this size, those in use besides.
    local_environments_gib: int = Field(default=50, ge=1, le=100_000)

"""Which tests go to the same worker, where several run them (``pytest -n 2``)."""

from __future__ import annotations

from xdist.scheduler import LoadScopeScheduling


class Together(LoadScopeScheduling):
    """A file's tests share a platform, and stay together; so do all on Slurm, of which there is one."""

    def _split_scope(self, nodeid: str) -> str:
        return "slurm" if "slurm" in nodeid else nodeid.split("::")[0]

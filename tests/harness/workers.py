"""Which tests go to the same worker, where several run them (``pytest -n 2``)."""

from __future__ import annotations

from xdist.scheduler import LoadScopeScheduling


class Together(LoadScopeScheduling):
    """A file's tests share a platform, and stay together; so do all on Slurm, and all of the command line."""

    def _split_scope(self, nodeid: str) -> str:
        shared = next((name for name in ("slurm", "test_cli_platform") if name in nodeid), "")
        return shared or nodeid.split("::")[0]

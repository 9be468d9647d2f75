"""Where an attempt's ranks run: which of them are here, what they are told of each other, and who is told."""

from __future__ import annotations

import os
import pwd
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from cairn._runner import rendezvous

if TYPE_CHECKING:
    from cairn._link import Listen
    from cairn._runner.folder import End, Folder, Launch
    from cairn._spool import Writer


class Place(Protocol):
    """What the steps of an attempt ask of the place where they run."""

    # The number of the first rank here, and how many are here.
    first: int
    ranks: int
    # Seconds for what was logged to reach the bus, after the end.
    patience: float
    listen: Listen | None
    # For words about the attempt, where the bus is to have them at once: they wait behind nothing else.
    words: Writer | None

    def basis(self) -> Mapping[str, str]:
        """The environment to start from, for all ranks."""
        ...

    def meeting(self, rank: int) -> Mapping[str, str]:
        """Where the `rank`th one here meets the others; a task's `envs` may say otherwise."""
        ...

    def secrets(self, folder: Folder) -> Mapping[str, str]:
        """The values of the task's secrets, by name. Asked for once."""
        ...

    def of_rank(self, rank: int) -> Mapping[str, str]:
        """What only the `rank`th one here is told."""
        ...

    def tell_in(self, spool: Path) -> None:
        """The spool for words about the attempt, before the first of them."""
        ...

    def started(self, time: float, pids: Sequence[int]) -> None:
        """The command runs."""
        ...

    def ended(self, end: End) -> None:
        """Nothing of it runs any more."""
        ...


class ThisMachine:
    """All ranks are processes here; the scheduler reads the folder."""

    first = 0
    patience = 60.0
    listen = None
    words = None

    def __init__(self, launch: Launch) -> None:
        self.ranks = launch.num_nodes
        self._launch = launch
        self._port: int | None = None

    def basis(self) -> Mapping[str, str]:
        """Nothing of the runner's own environment."""
        user = pwd.getpwuid(os.getuid())
        return {
            "PATH": self._launch.path,
            "HOME": os.environ.get("HOME") or user.pw_dir,
            "USER": os.environ.get("USER") or user.pw_name,
            "LANG": os.environ.get("LANG") or "C.UTF-8",
            "TMPDIR": tempfile.gettempdir(),
        }

    def meeting(self, rank: int) -> Mapping[str, str]:
        """On this machine, at a port that was free."""
        if self._port is None:
            self._port = rendezvous.free_port(self._launch.attempt_uid)
        return rendezvous.variables(
            rank=rank, ranks=self.ranks, address="127.0.0.1", port=self._port, gpus=len(self._gpus(rank))
        )

    def secrets(self, folder: Folder) -> Mapping[str, str]:
        """From a file that is gone after that."""
        return folder.take_secrets()

    def of_rank(self, rank: int) -> Mapping[str, str]:
        """Each rank has GPUs of its own."""
        gpus = self._gpus(rank)
        return {
            "SKYPILOT_NODE_RANK": str(rank),
            "SKYPILOT_NUM_NODES": str(self.ranks),
            "SKYPILOT_NODE_IPS": "\n".join(["127.0.0.1"] * self.ranks),
            "SKYPILOT_NUM_GPUS_PER_NODE": str(len(gpus)),
            "CUDA_VISIBLE_DEVICES": ",".join(gpus),
            "CAIRN_RANK": str(rank),
        }

    def _gpus(self, rank: int) -> list[str]:
        gpu_ids = self._launch.gpu_ids
        return [str(number) for number in gpu_ids[rank]] if rank < len(gpu_ids) else []

    def tell_in(self, spool: Path) -> None:
        """The folder's files are enough."""

    def started(self, time: float, pids: Sequence[int]) -> None:
        """state.json says so."""

    def ended(self, end: End) -> None:
        """end.json says so."""

"""What a rank is told of the others, for torchrun, torch.distributed, accelerate, DeepSpeed and Lightning.

The command is started once per node, as SkyPilot does. So the node's number is a process's number only where
the command itself is the one process of its node; with several GPUs a node a launcher starts one process for
each, and must not find numbers that are not its own.
"""

from __future__ import annotations

import random
import socket
import zlib
from collections.abc import Iterator

# Below the ports that systems hand out by themselves.
_FIRST_PORT, _LAST_PORT = 20_000, 29_999


def variables(*, rank: int, ranks: int, address: str, port: int, gpus: int) -> dict[str, str]:
    """The variables of one of `ranks` nodes with `gpus` GPUs each; `address` is that of rank 0.

    Always where the ranks meet. In a job of several nodes also what torchrun takes as its options (PET_*);
    and, where a node has at most one GPU, who the process is among all (RANK, WORLD_SIZE, LOCAL_RANK). A job
    of one node is told no numbers: `python train.py` has to behave as anywhere else.
    """
    found = {"MASTER_ADDR": address, "MASTER_PORT": str(port), "NODE_RANK": str(rank)}
    if ranks > 1:
        found |= {
            "PET_NNODES": str(ranks), "PET_NODE_RANK": str(rank),
            "PET_MASTER_ADDR": address, "PET_MASTER_PORT": str(port),
        }  # fmt: skip
        if gpus <= 1:
            found |= {"RANK": str(rank), "WORLD_SIZE": str(ranks), "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    return found


def agreed_port(attempt_uid: str) -> int:
    """A port that all nodes of an attempt find without asking each other, another for the next attempt."""
    return _FIRST_PORT + zlib.crc32(attempt_uid.encode()) % (_LAST_PORT - _FIRST_PORT + 1)


def free_port(attempt_uid: str) -> int:
    """The agreed port if nobody has it on this machine, else another that is free. Raises OSError."""
    for port in _candidates(attempt_uid):
        with socket.socket() as probe:
            # As servers do: connections that linger do not count.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("", port))
            except OSError:
                continue
            return port
    raise OSError("no port is free for the ranks to meet")


def _candidates(attempt_uid: str) -> Iterator[int]:
    yield agreed_port(attempt_uid)
    for _ in range(100):
        yield random.randint(_FIRST_PORT, _LAST_PORT)  # noqa: S311 - not for secrets

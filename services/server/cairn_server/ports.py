"""Free ports of the loopback address."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterable

# Below the range that kernels hand out for outgoing connections: a server that comes back after a restart
# must not find its port in use as the other end of somebody's connection.
_LOWEST, _HIGHEST = 17_000, 31_999


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """True where nobody listens on `port`."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        # As the servers do, so that connections in TIME_WAIT do not count as taken.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError:
            return False
    return True


def free(names: Iterable[str], *, taken: Iterable[int] = ()) -> dict[str, int]:
    """A free port for each name, all different and none of `taken`."""
    used = set(taken)
    chosen: dict[str, int] = {}
    for name in names:
        port = _pick(used)
        used.add(port)
        chosen[name] = port
    return chosen


def _pick(used: set[int]) -> int:
    for _ in range(1_000):
        port = random.randint(_LOWEST, _HIGHEST)  # noqa: S311 - not a secret
        if port not in used and is_free(port):
            return port
    raise OSError(f"no free port between {_LOWEST} and {_HIGHEST}")

"""Free ports of the loopback address."""

from __future__ import annotations

import json
import random
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path

from cairn_server.backends.program import SetupError
from cairn_server.home import read_json, write_private

HTTP = "http"
DEFAULT_HTTP = 7700

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


def assign(path: Path, names: Iterable[str], *, http: int | None) -> Mapping[str, int]:
    """The port of each name, from `path` where it was written before and is still free, and written there.

    `http` is the port that the operator asked for. Raises `SetupError` where that one is taken.
    """
    if http is not None and not is_free(http):
        raise SetupError(f"port {http} is taken by another program; name a free one by --port")
    kept = {name: int(port) for name, port in read_json(path).items()}
    usual = {HTTP: http or kept.get(HTTP, DEFAULT_HTTP)}
    wanted = {name: (kept | usual).get(name) for name in names}
    chosen = {name: port for name, port in wanted.items() if port is not None and is_free(port)}
    others = free([name for name in wanted if name not in chosen], taken=chosen.values())
    write_private(path, json.dumps(kept | chosen | others, indent=1))
    return chosen | others


def _pick(used: set[int]) -> int:
    for _ in range(1_000):
        port = random.randint(_LOWEST, _HIGHEST)  # noqa: S311 - not a secret
        if port not in used and is_free(port):
            return port
    raise OSError(f"no free port between {_LOWEST} and {_HIGHEST}")

"""What an interactive job tells those who may reach into it: its port and its secret.

They stand in a file of the job's folder that its owner alone can read; never in arguments, variables or logs.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

FOLDER = Path(".cairn")
"""Below the job's folder, where everything of ours is."""
_FILE = FOLDER / "door.json"
_LOOK_SECONDS = 0.2
# /proc/net/tcp: the state of a connection that stands.
_ESTABLISHED = "01"


@dataclass(frozen=True, slots=True)
class Door:
    """`path` is what to open in a browser, secret included; `words` are more that a person may need."""

    port: int
    secret: str = field(repr=False)
    path: str = field(default="/", repr=False)
    words: Mapping[str, str] = field(default_factory=dict, repr=False)


def new_secret() -> str:
    """For one job alone."""
    return secrets.token_urlsafe(24)


def free_port() -> int:
    """One that nobody on this node listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def write_private(name: str, text: str) -> Path:
    """A file below `FOLDER` that its owner alone can read."""
    FOLDER.mkdir(mode=0o700, exist_ok=True)
    path = FOLDER / name
    with open(path, "w", opener=lambda file, flags: os.open(file, flags, 0o600)) as out:
        out.write(text)
    return path


def post(door: Door) -> None:
    """Tells of it."""
    new = write_private("door.new", json.dumps(asdict(door)))
    os.replace(new, _FILE)


def wait(seconds: float) -> Door | None:
    """The door, once something answers behind it; None: it did not in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            door = Door(**json.loads(_FILE.read_text()))
            with socket.create_connection(("127.0.0.1", door.port), timeout=1.0):
                return door
        except (OSError, ValueError):
            # No event tells that a foreign server listens now.
            time.sleep(_LOOK_SECONDS)
    return None


def connections(port: int) -> int:
    """How many connections to this port of the node stand."""
    count = 0
    for name in ("tcp", "tcp6"):
        try:
            rows = Path(f"/proc/net/{name}").read_text().splitlines()[1:]
        except OSError:
            continue
        for row in rows:
            local, state = row.split()[1], row.split()[3]
            count += state == _ESTABLISHED and int(local.rpartition(":")[2], 16) == port
    return count

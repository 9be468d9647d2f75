"""The data folder: where it is, that it is ours alone, and the lock that one `cairn up` holds on it."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cairn_server.backends.program import SetupError

SETTING = "CAIRN_HOME"
_LEAST_FREE = 256 * 2**20
_FOLDERS = ("run", "config", "logs")


@dataclass(frozen=True, slots=True)
class Home:
    """Paths below one data folder."""

    root: Path

    @property
    def secrets(self) -> Path:
        """Tokens, passwords and seeds (0600)."""
        return self.root / "secrets.json"

    @property
    def ports(self) -> Path:
        """Which port each process has; kept, so that a process that starts again is found where it was."""
        return self.root / "run" / "ports.json"

    @property
    def state(self) -> Path:
        """What runs now, for `cairn status`."""
        return self.root / "run" / "state.json"

    @property
    def lock(self) -> Path:
        """Held by the one `cairn up` of this folder."""
        return self.root / "run" / "lock"

    @property
    def config(self) -> Path:
        """Files that servers and services read, written at each start."""
        return self.root / "config"

    @property
    def logs(self) -> Path:
        """One log for each process."""
        return self.root / "logs"


def locate(given: str | None, env: Mapping[str, str]) -> Path:
    """`--data`, else CAIRN_HOME, else /var/lib/cairn for root and ~/.local/share/cairn for everybody else."""
    if given or env.get(SETTING):
        return Path(os.path.abspath(Path(given or env[SETTING]).expanduser()))
    if os.geteuid() == 0:
        return Path("/var/lib/cairn")
    return Path(env.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "cairn"


def prepare(root: Path) -> Home:
    """Makes the folder where there is none, and checks it. Raises `SetupError` with the remedy."""
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        root.mkdir(mode=0o700, exist_ok=True)
    except FileExistsError:
        raise SetupError(f"{root} is a file; name another data folder by --data") from None
    except OSError as error:
        raise SetupError(
            f"cannot make the data folder {root}: {error.strerror}; name another by --data"
        ) from error
    check(root)
    free = shutil.disk_usage(root).free
    if free < _LEAST_FREE:
        raise SetupError(
            f"the disk of {root} is full: {free // 2**20} MiB are left, and Cairn starts with at least "
            f"{_LEAST_FREE // 2**20}; free some, or name a folder on another disk by --data"
        )
    for name in _FOLDERS:
        (root / name).mkdir(mode=0o700, exist_ok=True)
    # A data folder inside a project is neither committed nor packed into a job's code.
    write_private(root / ".gitignore", "*\n")
    return Home(root)


def check(root: Path) -> None:
    """Raises `SetupError` unless `root` is a real folder of ours, closed to others, and Cairn's or empty."""
    found = root.lstat()
    if stat.S_ISLNK(found.st_mode):
        raise SetupError(f"{root} is a symbolic link; name the folder itself by --data {root.resolve()}")
    if found.st_uid != os.geteuid():
        raise SetupError(
            f"{root} belongs to user {found.st_uid}, and this is user {os.geteuid()}; "
            "run as its owner or name another data folder by --data"
        )
    # Passing through (0711) is what PostgreSQL's account may need; looking is not.
    if stat.S_IMODE(found.st_mode) & 0o066:
        raise SetupError(f"{root} is open to others, and secrets lie in it: chmod 700 {root}")
    names = {entry.name for entry in os.scandir(root)} - {"lost+found"}
    if names and "run" not in names:
        raise SetupError(f"{root} holds other things; name an empty or a new folder by --data")


@contextmanager
def locked(home: Home) -> Iterator[None]:
    """Holds the folder's lock. Raises `SetupError` saying who holds it. A killed process holds nothing."""
    handle = os.open(home.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = read_json(home.state)
            raise SetupError(
                f"Cairn already runs on {home.root}: pid {holder.get('pid', '?')}, "
                f"{holder.get('url') or 'starting'}. Stop it by `cairn down`, or name another by --data"
            ) from None
        yield
    finally:
        os.close(handle)


def is_locked(home: Home) -> bool:
    """True while a `cairn up` holds the folder."""
    try:
        handle = os.open(home.lock, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def read_json(path: Path) -> dict[str, Any]:
    """The object in `path`; empty where there is none or it is not whole."""
    try:
        content = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def write_private(path: Path, text: str) -> None:
    """Writes `path` whole or not at all, readable for us alone (0600)."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.unlink(missing_ok=True)
    handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(handle, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except OSError as error:
        fresh.unlink(missing_ok=True)
        raise SetupError(f"cannot write {path}: {error.strerror}") from error

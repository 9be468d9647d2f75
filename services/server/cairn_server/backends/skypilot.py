"""SkyPilot's API server on loopback, in a virtual environment of its own below the data folder.

Its pins (click, uvicorn, protobuf) never meet those of the services, which speak HTTP with it. It has a home
of its own, too: the operator's credentials are linked into it, its state stays below the data folder.
"""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path

from cairn_server import processes
from cairn_server.backends.program import NotReady, Program, SetupError

VERSION = "0.14.1"
URL_SETTING = "CAIRN_SKYPILOT_URL"
# Which of SkyPilot's extras are installed: the kinds of infra that it can reach.
EXTRAS_SETTING = "CAIRN_SKYPILOT_EXTRAS"
_EXTRAS = "slurm"
_MARK = "CAIRN_SKYPILOT_FOLDER"
_INSTALL_SECONDS = 1800.0
# Of looks for what a server left running, and seconds between two.
_ROUNDS, _PAUSE = 100, 0.05
# What the operator has set up for SkyPilot or for a cloud's own tools.
_CREDENTIALS = (
    ".slurm", ".aws", ".kube", ".azure", ".oci", ".lambda_cloud", ".runpod", ".nebius", ".cloudflare",
    ".config/gcloud", ".sky/config.yaml", ".sky/catalogs",
)  # fmt: skip
_NOT_KEYS = frozenset({"config", "known_hosts", "known_hosts.old", "authorized_keys", "environment", "rc"})


def install(folder: Path, *, operator: Mapping[str, str], say: Callable[[str], None]) -> Path:
    """The virtual environment below `folder`; made where this version with these extras is not there yet.

    Blocks for a minute or two then, and says so. Raises `SetupError` with pip's last words.
    """
    venv = venv_folder(folder, operator)
    if (venv / "ok").exists():
        return venv
    what = f"skypilot[{_extras(operator)}]=={VERSION}"
    say(f"Installing {what} into {venv}: once, about 1.3 GB.")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Unfinished ones of an earlier try.
    shutil.rmtree(venv, ignore_errors=True)
    _run([sys.executable, "-m", "venv", str(venv)], "make a virtual environment")
    python = str(venv / "bin" / "python")
    _run(
        [python, "-m", "pip", "install", "--no-input", "--disable-pip-version-check", "-q", what],
        f"install {what}",
    )
    (venv / "ok").touch()
    say("SkyPilot is installed.")
    return venv


def prepare(folder: Path, *, port: int, operator: Mapping[str, str]) -> Program:
    """Describes the server on loopback, with all of its state in `folder`. `install` comes before this."""
    venv = venv_folder(folder, operator)
    if not (venv / "ok").exists():
        raise SetupError(f"SkyPilot is not installed in {venv}; start by `cairn up --skypilot`")
    home = folder / "home"
    (home / ".sky" / "api_server").mkdir(mode=0o700, parents=True, exist_ok=True)
    link_credentials(home, Path(operator.get("HOME") or Path.home()))

    async def probe() -> None:
        await asyncio.to_thread(_ask, port)

    return Program(
        name="skypilot",
        argv=(str(venv / "bin" / "python"), "-m", "sky.server.server", "--host=127.0.0.1", f"--port={port}"),
        env={
            **{
                key: value
                for key, value in operator.items()
                if key.startswith(("AWS_", "KUBE", "GOOGLE_", "SLURM_"))
            },
            "HOME": str(home),
            "USER": operator.get("USER", "cairn"),
            "PATH": f"{venv / 'bin'}:{operator.get('PATH', os.defpath)}",
            "SKYPILOT_DISABLE_USAGE_COLLECTION": "1",
            # As `sky api start` sets it: without it no workspace can be made.
            "IS_SKYPILOT_SERVER": "true",
            "SKYPILOT_API_SERVER_LOCAL_PORT": str(port),
            _MARK: str(folder),
        },
        port=port,
        probe=probe,
        reclaim=lambda: end_leftovers(folder),
        after=lambda: end_leftovers(folder),
        cwd=home,
        # It would wait for launches under way, which no kill harms: they are found again by their names.
        stop_grace=2.0,
    )


def link_credentials(home: Path, theirs: Path) -> None:
    """Shows the operator's credentials in SkyPilot's home, as links; what is there already stays."""
    keys = theirs / ".ssh"
    names = [*_CREDENTIALS]
    if keys.is_dir():
        names += [
            f".ssh/{path.name}" for path in keys.iterdir() if path.is_file() and path.name not in _NOT_KEYS
        ]
    for name in names:
        target, link = theirs / name, home / name
        if target.exists() and not link.exists() and target.resolve() != link.resolve():
            link.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            link.unlink(missing_ok=True)
            link.symlink_to(target)


def end_leftovers(folder: Path) -> None:
    """Ends the workers of a server that was killed: they keep its port and its database. Returns when none is
    left, also of those that they were just starting."""
    for _ in range(_ROUNDS):
        left = _leftovers(folder)
        if not left:
            return
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(_PAUSE)


def _leftovers(folder: Path) -> list[int]:
    """Its processes, by what they were given and by where they work: those that write their title over their
    environment, as its executors do, show only the latter."""
    mark = f"{_MARK}={folder}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or (pid := int(entry.name)) == os.getpid():
            continue
        try:
            # Empty for a zombie.
            given = mark in (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if given or processes.works_in(pid, folder / "home"):
            found.append(pid)
    return found


def venv_folder(folder: Path, operator: Mapping[str, str]) -> Path:
    """Where this version with these extras is installed, or would be; it is whole when `ok` is in it."""
    digest = hashlib.sha256(f"{VERSION} {_extras(operator)} {sys.version_info[:2]}".encode()).hexdigest()[:8]
    return folder / f"venv-{VERSION}-{digest}"


def _extras(operator: Mapping[str, str]) -> str:
    return ",".join(
        sorted({part.strip() for part in (operator.get(EXTRAS_SETTING) or _EXTRAS).split(",") if part})
    )


def _run(command: list[str], what: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_INSTALL_SECONDS)
    except subprocess.TimeoutExpired:
        raise SetupError(f"cannot {what}: it took longer than {_INSTALL_SECONDS:.0f} s") from None
    if done.returncode != 0:
        words = "\n".join((done.stdout + done.stderr).strip().splitlines()[-8:])
        raise SetupError(f"cannot {what}:\n{words}")


def answers(url: str) -> bool:
    """Whether a server elsewhere does, within 3 s."""
    # The operator's own address: a proxy of the environment is not for it.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{url.rstrip('/')}/api/health", timeout=3) as answer:
            return bool(answer.status == http.client.OK)
    except (OSError, ValueError, http.client.HTTPException):
        return False


def _ask(port: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=4)
    try:
        connection.request("GET", "/api/health")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        raise NotReady(f"/api/health: {error!r}") from error
    finally:
        connection.close()
    if status != http.client.OK:
        raise NotReady(f"/api/health: {status}")

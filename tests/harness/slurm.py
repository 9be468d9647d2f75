"""A real Slurm of several nodes on this machine, driven by the real SkyPilot.

How it is brought up differs from system to system, so that is not part of this repository. A recipe is a
folder with an `up.sh` and a `down.sh`, which are told where and on which port by SKYSLURM_HOME and
SKYSLURM_API_PORT. It is looked for beside the checkout (`../shared/slurm`), or where CAIRN_TEST_SLURM says.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import yaml

from cairn_server import home as homes
from cairn_server.backends import skypilot

SETTING = "CAIRN_TEST_SLURM"
CLUSTER = "lab"
_BESIDE = Path(__file__).parents[3] / "shared" / "slurm"
_UP_SECONDS = 1200


@dataclass(frozen=True)
class Slurm:
    """A running one; `url` is SkyPilot's API server in front of it."""

    home: Path
    url: str

    def run(self, *command: str) -> str:
        """One of Slurm's own commands."""
        env = {**os.environ, "SLURM_CONF": str(self.home / "run/etc/slurm.conf")}
        return subprocess.run(command, env=env, capture_output=True, text=True, check=True, timeout=60).stdout

    def allocations(self, name: str) -> list[tuple[str, str]]:
        """Number and nodes of each allocation whose name has this in it, such as an attempt's uid."""
        rows = [line.split("|") for line in self.run("squeue", "-h", "-o", "%i|%j|%N").splitlines()]
        return [(number, nodes) for number, title, nodes in rows if name in title]

    def equip(self, data: Path, *, configured: bool = True) -> dict[str, str]:
        """Prepares a platform's data folder for `cairn up --skypilot`: it finds SkyPilot installed, and Slurm
        as its operator's, where that is to be configured. Returns what its environment needs."""
        operator = {"HOME": str(self.home / "skyhome")}
        root = homes.prepare(data).root / "skypilot"
        venv = skypilot.venv_folder(root, operator)
        venv.parent.mkdir(mode=0o700)
        (self.home / "venv" / "ok").touch()
        venv.symlink_to(self.home / "venv")
        theirs, ours = self.home / "skyhome" / ".sky", root / "home" / ".sky"
        # What it installs on the nodes, which have that already.
        shutil.copytree(theirs / "wheels", ours / "wheels")
        if not configured:
            return operator
        # Without SkyPilot's own managed jobs, whose dozen of controllers would start with it.
        config = yaml.safe_load((theirs / "config.yaml").read_text())
        config.pop("jobs", None)
        (ours / "config.yaml").write_text(yaml.safe_dump(config))
        return operator


def why_not() -> str | None:
    """Why there can be no Slurm here, as a sentence; None where there can."""
    if not _there():
        return f"{SETTING} names no folder with an up.sh that brings up Slurm, and {_recipe()} is none"
    if os.geteuid() != 0:
        return "Slurm's daemons are started by root, and these tests are not run by root"
    if shutil.which("apt-get") is None:
        return "Slurm is installed from Debian's packages, and there is no apt-get here"
    return None


def must() -> bool:
    """Whether these tests may not be skipped: in CI, where there is a recipe."""
    return os.environ.get("CI", "") not in ("", "0", "false") and _there()


def _there() -> bool:
    return (_recipe() / "up.sh").is_file()


def _recipe() -> Path:
    return Path(os.environ.get(SETTING) or _BESIDE)


def up() -> Slurm:
    """Brings it up; what runs already is left as it is. Where that fails nothing of it stays."""
    home = Path(os.environ.get("SKYSLURM_HOME") or Path(tempfile.gettempdir()) / "cairn-slurm")
    port = os.environ.get("SKYSLURM_API_PORT", "46611")
    slurm = Slurm(home, f"http://127.0.0.1:{port}")
    try:
        # Once more where it failed: SkyPilot's server also takes a port that the kernel may have lent.
        said = _bring_up(home, port) and _bring_up(home, port)
        assert not said, said
    except BaseException:
        down(slurm)
        raise
    return slurm


def _bring_up(home: Path, port: str) -> str:
    """The last words of a recipe that failed; empty where it worked."""
    # Its files may be readable only; its daemons may hold a pipe open, so that there is none.
    with tempfile.TemporaryFile("w+") as words:
        done = subprocess.run(
            ["bash", _recipe() / "up.sh"], env=_told(home, port), stdin=subprocess.DEVNULL, stdout=words,
            stderr=subprocess.STDOUT, timeout=_UP_SECONDS,
        )  # fmt: skip
        words.seek(0)
        return "" if done.returncode == 0 else words.read()[-4000:] or f"exit code {done.returncode}"


def down(slurm: Slurm) -> None:
    """Stops what `up` started; what was installed stays, so that the next time is quick."""
    if "SKYSLURM_KEEP" in os.environ:
        return
    env = _told(slurm.home, slurm.url.rpartition(":")[2])
    try:
        subprocess.run(
            ["bash", _recipe() / "down.sh"], env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, timeout=120, check=False,
        )  # fmt: skip
    finally:
        for pid in _left(slurm.home):
            os.kill(pid, signal.SIGKILL)


def _told(home: Path, port: str) -> dict[str, str]:
    return {**os.environ, "SKYSLURM_HOME": str(home), "SKYSLURM_API_PORT": port}


def _left(home: Path) -> list[int]:
    """Processes that were started from this folder, or live in it."""
    found = []
    marks = (b"HOME=%s/" % bytes(home), b"SLURM_CONF=%s/" % bytes(home))
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            started = b"%s/" % bytes(home) in (entry / "cmdline").read_bytes()
            lives = any(one.startswith(marks) for one in (entry / "environ").read_bytes().split(b"\0"))
        except OSError:
            continue
        if started or lives:
            found.append(int(entry.name))
    return found

"""A real Slurm of several nodes on this machine, driven by the real SkyPilot.

How it is brought up differs from system to system, so that is not part of this repository: CAIRN_TEST_SLURM
names a folder with an `up.sh` and a `down.sh`, which are told where and on which port by SKYSLURM_HOME and
SKYSLURM_API_PORT.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

SETTING = "CAIRN_TEST_SLURM"
CLUSTER = "lab"
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


def why_not() -> str | None:
    """Why there can be no Slurm here, as a sentence; None where there can."""
    if not (_recipe() / "up.sh").is_file():
        return f"{SETTING} names no folder with an up.sh that brings up Slurm with SkyPilot in front"
    if os.geteuid() != 0:
        return "Slurm's daemons are started by root, and these tests are not run by root"
    if shutil.which("apt-get") is None:
        return "Slurm is installed from Debian's packages, and there is no apt-get here"
    return None


def _recipe() -> Path:
    return Path(os.environ.get(SETTING) or os.devnull)


def up() -> Slurm:
    """Brings it up; what runs already is left as it is."""
    home = Path(os.environ.get("SKYSLURM_HOME") or Path(tempfile.gettempdir()) / "cairn-slurm")
    port = os.environ.get("SKYSLURM_API_PORT", "46611")
    env = {**os.environ, "SKYSLURM_HOME": str(home), "SKYSLURM_API_PORT": port}
    done = subprocess.run(
        [_recipe() / "up.sh"],
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_UP_SECONDS,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    return Slurm(home, f"http://127.0.0.1:{port}")


def down(slurm: Slurm) -> None:
    """Stops what `up` started; what was installed stays, so that the next time is quick."""
    env = {**os.environ, "SKYSLURM_HOME": str(slurm.home)}
    subprocess.run([_recipe() / "down.sh"], env=env, capture_output=True, timeout=120, check=False)

"""The page as a browser has it."""

from __future__ import annotations

import subprocess
from pathlib import Path


def browse(address: str, profile: Path) -> str:
    """The page as Chromium has it after its scripts ran."""
    done = subprocess.run(
        [
            "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync",
            "--disable-background-networking", "--disable-component-update", f"--user-data-dir={profile}",
            "--virtual-time-budget=8000", "--dump-dom", address,
        ],
        capture_output=True, text=True, timeout=90,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout

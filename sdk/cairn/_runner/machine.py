"""Asks this machine for its NVIDIA driver and GPUs."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from cairn._runner.compatibility import Machine, Version, parse_driver

_SECONDS = 20.0


def look(variables: Mapping[str, str]) -> Machine:
    """What the driver tells; `variables` are those of the command. Nothing is known where there is none."""
    driver, capabilities = _by_tool()
    if not driver:
        try:
            driver = parse_driver(Path("/proc/driver/nvidia/version").read_text())
        except OSError:
            driver = ()
    return Machine(driver, capabilities, forward="compat" in variables.get("LD_LIBRARY_PATH", ""))


def _by_tool() -> tuple[tuple[int, ...], tuple[Version, ...]]:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return (), ()
    try:
        told = subprocess.run(
            [tool, "--query-gpu=driver_version,compute_cap", "--format=csv,noheader"],
            capture_output=True, text=True, timeout=_SECONDS, check=True, stdin=subprocess.DEVNULL,
        ).stdout  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return (), ()
    capabilities = tuple((int(a), int(b)) for a, b in re.findall(r",\s*(\d+)\.(\d+)\s*$", told, re.MULTILINE))
    return parse_driver(told), capabilities

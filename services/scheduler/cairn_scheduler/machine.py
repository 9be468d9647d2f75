"""What this machine has: CPUs, GPUs, memory, as the scheduler's process may use them."""

from __future__ import annotations

import os
import re
from pathlib import Path

from cairn_scheduler.model import Resources


def measure(*, cpus: float | None = None, gpus: int | None = None) -> Resources:
    """The capacity of this machine; what is given (cores, whole GPUs) stands for what would be found."""
    found, kind = _gpus()
    count = found if gpus is None else gpus
    return Resources(
        cpu_milli=_cpu_milli() if cpus is None else round(cpus * 1000),
        gpus=count,
        accelerator=kind if 0 < count <= found else "",
        memory_mib=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20,
    )


def _cpu_milli() -> int:
    milli = len(os.sched_getaffinity(0)) * 1000
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return milli
    return milli if quota == "max" else max(100, min(milli, int(quota) * 1000 // int(period)))


def _gpus() -> tuple[int, str]:
    """How many NVIDIA devices this process can open, and their kind where all are of one."""
    devices = [name for name in os.listdir("/dev") if re.fullmatch(r"nvidia\d+", name)]
    kinds = set()
    for information in Path("/proc/driver/nvidia/gpus").glob("*/information"):
        try:
            match = re.search(r"^Model:\s*(.+)$", information.read_text(), re.MULTILINE)
        except OSError:
            continue
        kinds.add(kind(match[1]) if match else "")
    return len(devices), kinds.pop() if len(kinds) == 1 else ""


def kind(model: str) -> str:
    """SkyPilot's name for a model, without its variant: `NVIDIA A100-SXM4-80GB` is an A100."""
    words = [word for word in model.upper().split() if word not in ("NVIDIA", "TESLA", "GEFORCE", "QUADRO")]
    if len(words) > 1 and words[0] in ("RTX", "GTX"):
        return words[0] + words[1]
    return words[0].partition("-")[0] if words else ""

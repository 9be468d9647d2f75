"""What cannot work together: a CUDA too new for the driver, a torch that was not built for the GPU. Pure.

Numbers of CUDA are pairs, 12.8 is (12, 8); a GPU's compute capability 9.0 is (9, 0).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

Version = tuple[int, int]

# The oldest driver for each major version of CUDA:
# https://docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html
_OLDEST_DRIVER = {11: (450, 80), 12: (525, 0), 13: (580, 0)}
# The CUDA that torch's wheels on PyPI are built with, where no suffix says so:
# https://github.com/pytorch/pytorch/blob/main/RELEASE.md
_TORCH_ON_PYPI = {
    "1.13": (11, 7), "2.0": (11, 7), "2.1": (12, 1), "2.2": (12, 1), "2.3": (12, 1), "2.4": (12, 1),
    "2.5": (12, 4), "2.6": (12, 4), "2.7": (12, 6), "2.8": (12, 8), "2.9": (12, 8),
}  # fmt: skip
# The first CUDA that compiles for a GPU of this generation, and the generations' names: release notes of CUDA
# 11.0, 11.8 and 12.8 (https://docs.nvidia.com/cuda/cuda-toolkit-release-notes/).
_FIRST_CUDA = {8: (11, 0), 9: (11, 8), 10: (12, 8), 11: (13, 0), 12: (12, 8)}
_NAMES = {
    5: "Maxwell", 6: "Pascal", 7: "Volta or Turing", 8: "Ampere or Ada", 9: "Hopper", 10: "Blackwell",
    11: "Blackwell", 12: "Blackwell",
}  # fmt: skip
# The oldest GPU that torch's wheels of this CUDA and later run on, by torch's release matrix (same page) and
# https://github.com/pytorch/pytorch/issues/172352
_OLDEST_GPU = (((13, 0), (7, 5)), ((12, 8), (7, 0)), ((12, 0), (5, 0)))

_SUFFIX = re.compile(r"\+cu(\d{2})(\d)\b")
_PINNED = re.compile(r"^torch(?:\[[^\]]*\])?\s*==\s*(\d+\.\d+)(?:\.\d+)*(\+\S+)?")
_TORCH = re.compile(r"^torch\b(?!-)")
_INDEX = re.compile(r"/whl/(?:\w+/)?cu(\d{2})(\d)(?:/|$|\s)")
_EXTRA = re.compile(r"^jax(?:lib)?\[[^\]]*cuda(\d{2})|^cupy-cuda(\d{2})x|^jax-cuda(\d{2})")
_RUNTIME = re.compile(r"^nvidia-cuda-runtime(?:-cu\d+)?$")
_INSTALLED = re.compile(r"^jax-cuda(\d{2})-plugin$|^cupy-cuda(\d{2})x$")


@dataclass(frozen=True, slots=True)
class Machine:
    """What is known of a machine's GPUs: the driver's version, and each GPU's compute capability."""

    driver: tuple[int, ...] = ()
    capabilities: tuple[Version, ...] = ()
    # Libraries of a newer driver that run on an older one are in LD_LIBRARY_PATH.
    forward: bool = False


@dataclass(frozen=True, slots=True)
class Need:
    """A framework and the CUDA that it was built with; (0, 0): it is a build without CUDA."""

    who: str
    cuda: Version
    is_torch: bool = False


@dataclass(frozen=True, slots=True)
class Finding:
    """What cannot work, in a sentence with what to do. `refuse`: it is certain."""

    told: str
    refuse: bool = False


def asked(lines: Iterable[str]) -> list[Need]:
    """What requirements ask for, as far as they say it."""
    found: list[Need] = []
    index: Version | None = None
    torch = ""
    for line in lines:
        if _TORCH.match(line):
            torch = torch or "torch"
        if by_index := _INDEX.search(line):
            index = (int(by_index[1]), int(by_index[2]))
        elif pinned := _PINNED.match(line):
            torch = f"torch {pinned[1]}{pinned[2] or ''}"
            cuda = _by_suffix(pinned[2] or "") or (None if pinned[2] else _TORCH_ON_PYPI.get(pinned[1]))
            if cuda is not None:
                found.append(Need(torch, cuda, is_torch=True))
        elif extra := _EXTRA.match(line):
            major = int(next(group for group in extra.groups() if group))
            found.append(Need(line.split(";")[0].split("=")[0].strip(), (major, 0)))
    if index is not None:
        # Another index than PyPI: what a bare version means there is not what the table says.
        found = [need for need in found if not need.is_torch or "+" in need.who]
        if torch and not any(need.is_torch for need in found):
            found.append(Need(f"{torch} of the index cu{index[0]}{index[1]}", index, is_torch=True))
    return found


def installed(packages: Mapping[str, str]) -> list[Need]:
    """What an environment's packages need."""
    found = []
    runtime = next((_pair(version) for name, version in packages.items() if _RUNTIME.match(name)), None)
    if torch := packages.get("torch"):
        cuda = (0, 0) if "+cpu" in torch else _by_suffix(torch) or runtime
        if cuda is not None:
            found.append(Need(f"torch {torch}", cuda, is_torch=True))
    for name, version in packages.items():
        if match := _INSTALLED.match(name):
            major = int(next(group for group in match.groups() if group))
            found.append(Need(f"{name} {version}", (major, 0)))
    return found


def judge(needs: Sequence[Need], machine: Machine, *, gpus: int) -> list[Finding]:
    """What of these needs the machine cannot meet, for a job with so many GPUs; without, nothing matters."""
    if not gpus:
        return []
    found = []
    for need in needs:
        if need.cuda == (0, 0):
            found.append(
                Finding(
                    f"The job has GPUs, but {need.who} is a build without CUDA and will not use them: "
                    "install torch from PyPI, or from an index such as https://download.pytorch.org/whl/cu128."
                )
            )
            continue
        found += _by_driver(need, machine)
        found += _by_gpu(need, machine)
    return found


def _by_driver(need: Need, machine: Machine) -> list[Finding]:
    least = _OLDEST_DRIVER.get(need.cuda[0])
    if least is None or not machine.driver or machine.driver[:2] >= least:
        return []
    driver = ".".join(map(str, machine.driver))
    fitting = [major for major, oldest in _OLDEST_DRIVER.items() if machine.driver[:2] >= oldest]
    instead = f"a build for CUDA {max(fitting)}" if fitting else "an older build"
    told = (
        f"{need.who} is built for CUDA {_text(need.cuda)}, which needs an NVIDIA driver of {least[0]} or "
        f"newer; this machine has {driver}: install {instead}, or run on a machine with a newer driver."
    )
    return [Finding(told, refuse=not machine.forward)]


def _by_gpu(need: Need, machine: Machine) -> list[Finding]:
    if not need.is_torch:
        return []
    found = []
    for capability in sorted(set(machine.capabilities)):
        name = f"{_NAMES.get(capability[0], 'GPU')} (compute capability {_text(capability)})"
        first = _FIRST_CUDA.get(capability[0])
        if first is not None and need.cuda < first:
            told = (
                f"{need.who} is built for CUDA {_text(need.cuda)}, which does not know this machine's "
                f"GPUs, {name}: install a build for CUDA {_text(first)} or newer."
            )
            found.append(Finding(told))
            continue
        oldest = next((gpu for cuda, gpu in _OLDEST_GPU if need.cuda >= cuda), None)
        if oldest is not None and capability < oldest:
            told = (
                f"{need.who} is built for CUDA {_text(need.cuda)}, whose wheels no longer run on this "
                f"machine's GPUs, {name}: install a build for an older CUDA (12.6), or ask for newer GPUs."
            )
            found.append(Finding(told))
    return found


def parse_driver(text: str) -> tuple[int, ...]:
    """`580.65.06`, alone or in /proc/driver/nvidia/version; () where there is none."""
    match = re.search(r"\b(\d{3,4}(?:\.\d{2,4}){1,2})\b", text)
    return tuple(int(part) for part in match[1].split(".")) if match else ()


def _by_suffix(version: str) -> Version | None:
    match = _SUFFIX.search(version)
    return (int(match[1]), int(match[2])) if match else None


def _pair(version: str) -> Version | None:
    parts = version.split(".")[:2]
    return (int(parts[0]), int(parts[1])) if len(parts) == 2 and all(map(str.isdigit, parts)) else None


def _text(version: Version) -> str:
    return f"{version[0]}.{version[1]}"

"""What a failed build is told as, and what cannot work with a machine's GPUs."""

from __future__ import annotations

from pathlib import Path

import pytest

from cairn._runner import recipe
from cairn._runner.compatibility import Machine, asked, installed, judge, parse_driver


@pytest.mark.parametrize(
    ("lines", "told", "place"),
    [
        (["ERROR: Could not find a version that satisfies the requirement nosuch (from versions: none)",
          "ERROR: No matching distribution found for nosuch"], "no package `nosuch` for Python 3.11", False),
        (["WARNING: Retrying (Retry(total=0)) after connection broken by 'NewConnectionError'",
          "ERROR: Could not find a version that satisfies the requirement six (from versions: none)",
          "ERROR: No matching distribution found for six"], "could not be fetched", True),
        (["  × No solution found when resolving dependencies:",
          "  ╰─▶ Because nosuch was not found in the package registry"], "no package `nosuch`", False),
        (["ERROR: Cannot install a==1 and b==2 because these have conflicting dependencies.",
          "ERROR: ResolutionImpossible: for help visit ..."], "cannot be met together", False),
        (["ERROR: Failed building wheel for flash-attn", "error: failed-wheel-build-for-install"],
         "`flash-attn` has no ready-made wheel", False),
        (["ERROR: Invalid requirement: 'a b c'"], "is not a requirement", False),
        (["ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE."], "hash", False),
        (["ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device"],
         "disk was full", True),
        (["error: error sending request for url (https://host/simple/six/)"], "could not be fetched", True),
        (["ERROR: 'x' requires a different Python: 3.11.7 not in '<3.10'"], "does not support", False),
        (["ERROR: 401 Client Error: Unauthorized for url"], "credentials", False),
        (["error: No interpreter found for Python 3.99 in managed installations or search path"],
         "no Python 3.11 on this machine", False),
        (["something else"], "exit code 2", False),
    ],
)  # fmt: skip
def test_a_failed_build_is_explained(lines: list[str], told: str, place: bool) -> None:
    failure = recipe.explain(["Collecting a", *lines], python="3.11", code=2)
    assert told in failure.sentence
    assert failure.place == place
    assert failure.lines
    assert failure.sentence.endswith(".") or failure.sentence.endswith(").")


def test_pip_is_asked_where_it_alone_knows_the_index(tmp_path: Path) -> None:
    uv = tmp_path / "uv"
    uv.write_text("#!/bin/sh\n")
    uv.chmod(0o700)
    home = {"HOME": str(tmp_path)}
    found = recipe.any_uv(str(tmp_path))
    assert found == str(uv)
    assert recipe.find_uv(str(tmp_path), {**home, "PIP_INDEX_URL": "https://mirror"}) is None
    config = tmp_path / ".config" / "pip" / "pip.conf"
    config.parent.mkdir(parents=True)
    config.write_text("[global]\nindex-url = https://mirror\n")
    assert recipe.find_uv(str(tmp_path), home) is None


HOPPER, PASCAL, BLACKWELL = (9, 0), (6, 1), (12, 0)
CUDA_12 = {"torch": "2.6.0", "nvidia-cuda-runtime-cu12": "12.4.127"}
CUDA_13 = {"torch": "2.15.0", "nvidia-cuda-runtime": "13.2.86"}


@pytest.mark.parametrize(
    ("packages", "machine", "told", "refuse"),
    [
        (CUDA_12, Machine((550, 54), (HOPPER,)), "", False),
        (CUDA_13, Machine((550, 54, 14), (HOPPER,)),
         "needs an NVIDIA driver of 580 or newer; this machine has 550.54.14: install", True),
        (CUDA_13, Machine((550, 54), forward=True), "driver", False),
        ({"torch": "2.3.0+cu121"}, Machine((470, 57, 2)), "CUDA 12.1, which needs", True),
        ({"torch": "2.3.0+cu118"}, Machine((470, 57, 2), (HOPPER,)), "", False),
        ({"torch": "1.13.0+cu117"}, Machine((535, 1, 1), (HOPPER,)), "CUDA 11.8 or newer", False),
        ({"torch": "2.6.0+cu124"}, Machine((580, 65), (BLACKWELL,)), "CUDA 12.8 or newer", False),
        ({"torch": "2.9.0+cu128"}, Machine((580, 65), (PASCAL,)), "older CUDA", False),
        ({"torch": "2.9.0+cpu"}, Machine((580, 65)), "without CUDA", False),
        ({"jax-cuda13-plugin": "0.9"}, Machine((535, 1)), "jax-cuda13-plugin 0.9 is built", True),
        ({"numpy": "2.0"}, Machine((1, 0)), "", False),
        ({"torch": "2.3.0+cu121"}, Machine(), "", False),
    ],
)  # fmt: skip
def test_what_cannot_work_with_the_gpus_is_said(
    packages: dict[str, str], machine: Machine, told: str, refuse: bool
) -> None:
    found = judge(installed(packages), machine, gpus=1)
    assert bool(found) == bool(told)
    assert all(told in finding.told for finding in found)
    assert any(finding.refuse for finding in found) == refuse
    assert not judge(installed(packages), machine, gpus=0)


@pytest.mark.parametrize(
    ("lines", "cuda"),
    [
        (["torch==2.3.0+cu121"], [(12, 1)]),
        (["torch==2.4.1"], [(12, 1)]),
        (["torch==2.99.0"], []),
        (["torch>=2"], []),
        (["--index-url https://download.pytorch.org/whl/cu118", "torch==2.4.1"], [(11, 8)]),
        (["--extra-index-url=https://download.pytorch.org/whl/nightly/cu130", "torch"], [(13, 0)]),
        (["--extra-index-url https://download.pytorch.org/whl/cu130", "numpy"], []),
        (["jax[cuda12]==0.5", "cupy-cuda11x"], [(12, 0), (11, 0)]),
        (["torch-geometric==2.4.0", "torchvision==0.19"], []),
    ],
)
def test_what_requirements_ask_for_is_known_before_anything_is_built(
    lines: list[str], cuda: list[tuple[int, int]]
) -> None:
    assert [need.cuda for need in asked(lines)] == cuda


def test_the_drivers_version_is_read() -> None:
    kernel = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  (x)"
    assert parse_driver(kernel) == (580, 65, 6)
    assert parse_driver("550.54.14, 9.0\n550.54.14, 9.0\n") == (550, 54, 14)
    assert parse_driver("") == ()

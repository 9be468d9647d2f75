"""The task files of interactive jobs."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from typing import Any

PACKAGES = ".cairn/packages"
"""Where a job installs what its environment lacks; below its folder, and gone with it."""

_SETUP = f"""\
python -c 'import importlib.util as u, sys; sys.exit(not u.find_spec("MODULE"))' || {{
  python -m pip --version >/dev/null 2>&1 || python -m ensurepip >/dev/null
  echo 'installing MODULE for this job; put it into the environment to start faster'
  python -m pip install --quiet --disable-pip-version-check --target {PACKAGES} MODULE
}}
"""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the options of the commands say. Times in seconds."""

    name: str
    idle: int = 3600
    max_runtime: str = "12h"
    cpus: str = ""
    memory: str = ""
    accelerators: str = ""
    envs: dict[str, str] = field(default_factory=dict)
    experiment: str = ""


def notebook(wanted: Wanted) -> dict[str, Any]:
    """JupyterLab."""
    return _task(wanted, setup=_SETUP.replace("MODULE", "jupyterlab"), words=["notebook"])


def code(wanted: Wanted) -> dict[str, Any]:
    """VS Code in a browser."""
    return _task(wanted, setup="", words=["code"])


def model(wanted: Wanted, *, name: str, arguments: list[str]) -> dict[str, Any]:
    """A model behind an API as OpenAI has it, by vLLM."""
    return _task(wanted, setup=_SETUP.replace("MODULE", "vllm"), words=["model", name, *arguments])


def _task(wanted: Wanted, *, setup: str, words: list[str]) -> dict[str, Any]:
    resources = {"cpus": wanted.cpus, "memory": wanted.memory, "accelerators": wanted.accelerators}
    task: dict[str, Any] = {
        "name": wanted.name,
        "resources": {key: value for key, value in resources.items() if value},
        "envs": dict(wanted.envs),
        "setup": setup,
        "run": shlex.join(["exec", "python", "-m", "cairn._recipes", "--idle", str(wanted.idle), *words])
        + "\n",
        # Nobody waits for another attempt of what a person had in their browser.
        "cairn": {"experiment": wanted.experiment, "max_runtime": wanted.max_runtime, "max_retries": 0},
    }
    task["cairn"] = {key: value for key, value in task["cairn"].items() if value != ""}
    return {key: value for key, value in task.items() if value != {} and value != ""}

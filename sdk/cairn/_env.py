"""What the environment says: whether this is a job's process, and what the platform told it."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# A shorter secret is a word that may stand anywhere.
LEAST_SECRET = 6
# Packages whose versions explain a result.
_FRAMEWORKS = ("torch", "numpy", "jax", "tensorflow", "transformers", "lightning", "scikit-learn", "xgboost")
_INSTALLED = re.compile(r"^(?P<name>.+?)-(?P<version>[^-]+)\.(?:dist|egg)-info$")


@dataclass(frozen=True, slots=True)
class JobEnvironment:
    """What the runner gives to each process of a job."""

    spool: Path
    run_uid: str
    team: str = "main"
    attempt_uid: str = ""
    attempt: int = 0
    rank: int = 0
    url: str = ""
    token_file: Path | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    # The version that a resumed job begins with, by its name; the run whose inputs a rerun has.
    resume: str = ""
    rerun: str = ""

    def token(self) -> str:
        """The run's token as it is now (it is renewed while the job runs); empty if there is none."""
        try:
            return self.token_file.read_text().strip() if self.token_file else ""
        except OSError:
            return ""


def job_environment(environ: Mapping[str, str] | None = None) -> JobEnvironment | None:
    """The platform's variables; None outside a job."""
    environ = os.environ if environ is None else environ
    spool, run = environ.get("CAIRN_SPOOL"), environ.get("CAIRN_RUN")
    if not spool or not run:
        return None
    token_file = environ.get("CAIRN_TOKEN_FILE")
    return JobEnvironment(
        spool=Path(spool),
        run_uid=run,
        team=environ.get("CAIRN_TEAM") or "main",
        attempt_uid=environ.get("CAIRN_ATTEMPT_UID", ""),
        attempt=_number(environ.get("CAIRN_ATTEMPT")),
        rank=_number(environ.get("CAIRN_RANK")),
        url=environ.get("CAIRN_URL", ""),
        token_file=Path(token_file) if token_file else None,
        params=given_params(environ),
        resume=environ.get("CAIRN_RESUME", ""),
        rerun=environ.get("CAIRN_RERUN", ""),
    )


def given_params(environ: Mapping[str, str] | None = None) -> dict[str, Any]:
    """CAIRN_PARAMS. Texts that spell a number, true, false or null become that: tasks have texts only."""
    environ = os.environ if environ is None else environ
    try:
        params = json.loads(environ.get("CAIRN_PARAMS") or "{}")
    except ValueError:
        return {}
    return {str(key): _typed(value) for key, value in params.items()} if isinstance(params, dict) else {}


def describe_process() -> dict[str, str]:
    """Python, machine, GPUs and frameworks, for people. Takes a few milliseconds and starts no process."""
    machine = os.uname()
    facts = {
        "python": sys.version.split()[0],
        "platform": f"{machine.sysname} {machine.release} {machine.machine}",
        "hostname": machine.nodename,
        "cpus": str(os.cpu_count() or 0),
    }
    if gpus := _gpu_names():
        facts["gpus"] = ", ".join(gpus)
    there = {name.lower().replace("_", "-"): version for name, version in installed(sys.path).items()}
    return facts | {name: there[name] for name in _FRAMEWORKS if name in there}


def installed(path: Iterable[str]) -> dict[str, str]:
    """Versions of the packages on an import path, by the names of folders: nothing is read.

    importlib.metadata would take a hundred times as long to import, and to ask.
    """
    found: dict[str, str] = {}
    for folder in path:
        try:
            names = os.listdir(folder or ".")
        except OSError:
            continue
        for name in names:
            if match := _INSTALLED.match(name):
                found.setdefault(match["name"], match["version"])
    return found


def describe_command(environ: Mapping[str, str] | None = None) -> str:
    """How this process was started, without the values of the task's secrets among its words."""
    environ = os.environ if environ is None else environ
    text = " ".join(sys.orig_argv)
    for name in environ.get("CAIRN_SECRETS", "").split(","):
        value = environ.get(name, "")
        if len(value) >= LEAST_SECRET:
            text = text.replace(value, "********")
    return text[:4096]


def _gpu_names() -> list[str]:
    """As the driver lists them: asking nvidia-smi would take a second."""
    names = []
    for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        try:
            found = re.search(r"^Model:\s*(.+)$", path.read_text(), re.MULTILINE)
        except OSError:
            continue
        if found:
            names.append(found[1].strip())
    return names


def _typed(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        decoded = json.loads(value)
    except ValueError:
        return value
    return value if isinstance(decoded, (str, list, dict)) else decoded


def _number(text: str | None) -> int:
    return int(text) if text and text.isdigit() else 0

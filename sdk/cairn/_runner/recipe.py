"""What to run to build an environment, and what its failure means. Pure but for the look at files."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_PIP = ["-m", "pip", "--no-input", "--disable-pip-version-check"]
# What builds a conda environment where no conda program is; for an environment that has nothing else.
RATTLER = ("py-rattler>=0.28,<0.29", "pyyaml>=6")
_PIP_PLACES = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_CONFIG_FILE", "PIP_NO_INDEX")


def venv(executable: str, path: Path) -> str:
    """A fresh environment with pip."""
    return shlex.join([executable, "-m", "venv", str(path)])


def uv_venv(uv: str, python: str, path: Path) -> str:
    """The same by uv, which can fetch an interpreter, too."""
    return shlex.join([uv, "venv", "--seed", "--no-project", "--python", python, str(path)])


def install(path: Path, arguments: Sequence[str], *, uv: str | None) -> str:
    """Installs into the environment at `path`."""
    if uv:
        return shlex.join([uv, "pip", "install", "--python", str(path / "bin" / "python"), *arguments])
    return shlex.join([str(path / "bin" / "python"), *_PIP, "install", *arguments])


def sync(uv: str, path: Path, *, project: Path, python: str) -> str:
    """What a uv.lock says, without the project itself; then pip, which uv leaves out."""
    words = [uv, "sync", "--frozen", "--no-install-project", "--no-install-workspace"]
    synced = shlex.join([*words, "--project", str(project), *(["--python", python] if python else [])])
    return f"UV_PROJECT_ENVIRONMENT={shlex.quote(str(path))} {synced} && {install(path, ['pip'], uv=uv)}"


def conda(tool: str, path: Path, file: Path) -> str:
    """What an environment.yml says, by conda, mamba or micromamba."""
    if Path(tool).name == "micromamba":
        return shlex.join([tool, "create", "--yes", "--prefix", str(path), "--file", str(file)])
    return shlex.join([tool, "env", "create", "--yes", "--prefix", str(path), "--file", str(file)])


def rattler(tool: Path, path: Path, file: Path) -> str:
    """The same by the py-rattler of the environment `tool`, in which what it has fetched stays, too."""
    script = Path(__file__).with_name("conda.py")
    python = str(tool / "bin" / "python")
    # Isolated: beside the script lie modules with names of the standard library.
    words = [python, "-I", str(script), "--prefix", str(path), "--cache", str(tool / "cache"), str(file)]
    return shlex.join(words)


def find_uv(path: str, environment: Mapping[str, str]) -> str | None:
    """uv on `path` or beside this interpreter; not where pip was told of places that uv would not ask."""
    if any(environment.get(name) for name in _PIP_PLACES) or _pip_configured(environment):
        return None
    return any_uv(path)


def any_uv(path: str) -> str | None:
    """uv, where nothing else will do."""
    beside = os.path.join(os.path.dirname(sys.executable), "uv")
    return shutil.which("uv", path=path) or (beside if os.access(beside, os.X_OK) else None)


def find_conda(path: str) -> str | None:
    """The fastest that there is."""
    found = (shutil.which(name, path=path) for name in ("micromamba", "mamba", "conda"))
    return next((tool for tool in found if tool), None)


def _pip_configured(environment: Mapping[str, str]) -> bool:
    """Whether a pip.conf names an index: then pip is the one who knows where packages are."""
    home = environment.get("HOME") or os.path.expanduser("~")
    config = environment.get("XDG_CONFIG_HOME") or f"{home}/.config"
    for file in ("/etc/pip.conf", "/etc/xdg/pip/pip.conf", f"{home}/.pip/pip.conf", f"{config}/pip/pip.conf"):
        try:
            if re.search(r"^\s*(extra-)?(index-url|find-links|no-index)\s*=", Path(file).read_text(), re.M):
                return True
        except (OSError, UnicodeDecodeError):
            continue
    return False


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a build failed: a sentence for people with what to do, and the lines that show it.

    `place`: the fault is the network's or the machine's, and another try can help.
    """

    sentence: str
    lines: tuple[str, ...]
    place: bool = False


_DECISIVE = re.compile(r"^\s*(ERROR:|error:|error\b.*:|×|╰─|hint:|cause:|Because|And because|.*Error: )")
_NETWORK = re.compile(
    r"Retrying \(Retry\(total=|NewConnectionError|Temporary failure in name resolution"
    r"|Name or service not known|ReadTimeoutError|Read timed out|ConnectTimeout"
    r"|Connection (refused|reset|aborted|timed out)"
    r"|Network is unreachable|ProxyError|error sending request|dns error|operation timed out"
    r"|\b(429|500|502|503|504) (Client|Server) Error|IncompleteRead|Could not fetch URL"
    r"|CondaHTTPError|Download error|failed to lookup address",
    re.IGNORECASE,
)
_DISK = re.compile(r"No space left on device|Disk quota exceeded")
# Said by conda.py: why, in a whole sentence, and by its exit code whether another try can help.
_TOLD = re.compile(r"^cairn\.env\.conda: .*", re.MULTILINE)
# Decided by the resolver itself: no network can change it.
_OWN: tuple[tuple[str, str], ...] = (
    (
        r"THESE PACKAGES DO NOT MATCH THE HASHES|Hash mismatch",
        "A package is not the one whose hash is given: renew the hashes, or the lock.",
    ),
    (
        r"ResolutionImpossible|conflicting dependencies|No solution found when resolving",
        "These requirements cannot be met together: loosen one of the versions named below.",
    ),
    (
        r"Invalid requirement|Expected (package name|end or semicolon)|Couldn't parse requirement",
        "A line of the requirements is not a requirement: correct it.",
    ),
    (
        r"(lockfile|uv\.lock).*(needs to be updated|outdated|not found)|Failed to parse `uv.lock`"
        r"|Unable to find lockfile",
        "The lock does not fit its pyproject.toml: run `uv lock`, and submit again.",
    ),
    (
        r"\b(401|403) (Client )?Error|401 Unauthorized|403 Forbidden",
        "The package index refused: give the job its credentials (PIP_INDEX_URL or PIP_EXTRA_INDEX_URL in "
        "`envs`).",
    ),
    (
        r"PackagesNotFoundError|ResolvePackageNotFound|nothing provides requested"
        r"|does not exist \(perhaps a typo",
        "A package is not in these conda channels: check its name, its version and `channels`.",
    ),
)
# Said by uv within a resolution that failed.
_UNKNOWN = re.compile(r"Because (\S+) was not found in the\s+package registry")
_MISSING = re.compile(r"No matching distribution found for ([^\s(]+.*)")
_NO_PYTHON = re.compile(r"No interpreter found|No download found for request")
_PYTHON = re.compile(r"requires a different Python|Requires-Python")
_BUILD = re.compile(
    r"Failed (?:building wheel for|to build) ['`]?(?P<name>[\w.-]+)|subprocess-exited-with-error"
    r"|metadata-generation-failed|failed-wheel-build-for-install"
)


def explain(lines: Sequence[str], *, python: str, code: int | None) -> Failure:
    """Reads a failed build's output."""
    text = "\n".join(lines)
    decisive = _decisive(lines)
    if _DISK.search(text):
        return Failure("The disk was full while the environment was built.", decisive, place=True)
    if said := _TOLD.search(text):
        return Failure(said[0], decisive, place=code == os.EX_TEMPFAIL)
    if unknown := _UNKNOWN.search(text):
        return Failure(_missing(unknown[1], python), decisive)
    for pattern, sentence in _OWN:
        if re.search(pattern, text):
            return Failure(sentence, decisive)
    network = _NETWORK.search(text)
    if network:
        told = next(line.strip() for line in lines if _NETWORK.search(line))
        return Failure(
            "Packages could not be fetched, the network or the package index did not answer.",
            (told[:300], *decisive), place=True,
        )  # fmt: skip
    if missing := _MISSING.search(text):
        return Failure(_missing(missing[1].strip(), python), decisive)
    if built := _BUILD.search(text):
        name = built.groupdict().get("name")
        return Failure(
            f"{f'`{name}`' if name else 'A package'} has no ready-made wheel for Python {python} here, and "
            "could not be built: take a version that has one, another Python, or install what its build "
            "needs.",
            decisive,
        )
    if _NO_PYTHON.search(text):
        told = f"There is no Python {python} on this machine, and uv knows of none to fetch: choose another"
        return Failure(f"{told} `cairn.env.python`.", decisive)
    if _PYTHON.search(text):
        told = f"A package does not support Python {python}: choose another `cairn.env.python`."
        return Failure(told, decisive)
    return Failure(f"The environment could not be built (exit code {code}).", decisive)


def _missing(name: str, python: str) -> str:
    return (
        f"There is no package `{name}` for Python {python} on {os.uname().machine}: check its name and "
        "version, the Python version (`cairn.env.python`), and the index (`--index-url` in the requirements)."
    )


def _decisive(lines: Sequence[str]) -> tuple[str, ...]:
    """The few lines that say why; else the last ones."""
    found = [line.rstrip()[:500] for line in lines if _DECISIVE.match(line)]
    return tuple(found[-8:] or [line.rstrip()[:500] for line in lines if line.strip()][-8:])

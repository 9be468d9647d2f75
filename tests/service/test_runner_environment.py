"""The real runner builds real environments: once, for all who ask, and says why when it cannot."""

from __future__ import annotations

import base64
import hashlib
import os
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.harness import servers
from tests.harness.runner import Job

pytestmark = pytest.mark.usefixtures("runner_bus")
MakeJob = Callable[..., Job]

# Nothing is asked for on a network, and no pip.conf of this machine has a say.
ALONE = {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": "/dev/null", "PIP_FIND_LINKS": "wheels"}
# An index where nobody answers.
AWAY = {
    "PIP_NO_INDEX": "0", "PIP_INDEX_URL": "http://127.0.0.1:1/simple", "PIP_RETRIES": "1",
    "PIP_FIND_LINKS": "",
}  # fmt: skip


def wheel(folder: Path, name: str, text: str) -> None:
    """A package of one module, as pip installs it."""
    info = f"{name}-1.0.dist-info"
    files = {
        f"{name}.py": text,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": f"[console_scripts]\n{name}-tool = {name}:main\n",
    }
    lines = []
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as archive:
        for path, content in files.items():
            archive.writestr(path, content)
            digest = base64.urlsafe_b64encode(hashlib.sha256(content.encode()).digest()).rstrip(b"=")
            lines.append(f"{path},sha256={digest.decode()},{len(content)}")
        archive.writestr(f"{info}/RECORD", "\n".join([*lines, f"{info}/RECORD,,"]))


@pytest.fixture
def make(make_job: MakeJob, tmp_path: Path) -> MakeJob:
    """A job with an environment of its own making; all jobs of a test share a folder of environments."""

    def made(run: str, wanted: dict[str, Any], **fields: Any) -> Job:
        job = make_job(run, environment=wanted, environments=str(tmp_path / "environments"), **fields)
        job.launch["envs"] = {**ALONE, **job.launch["envs"]}
        work = job.folder / "work"
        work.mkdir()
        wheel(work / "wheels", "tiny", "import sys\ndef main():\n    print('tool', sys.prefix)\n")
        wheel(work / "wheels", "extra", "def main(): pass\n")
        (work / "requirements.txt").write_text("tiny==1.0\n")
        return job

    return made


def said(job: Job, bus: servers.Nats) -> list[str]:
    return [text for _, stream, text in job.lines(bus.url) if stream == "PLATFORM"]


def printed(job: Job, bus: servers.Nats) -> list[str]:
    return [text for _, stream, text in job.lines(bus.url) if stream != "PLATFORM"]


SCRIPT = """
import importlib.util, os, sys
import cairn, tiny
cairn.log({"x": 1.0})
print("prefix", sys.prefix == os.environ["VIRTUAL_ENV"], sys.prefix != sys.base_prefix)
print("extra", importlib.util.find_spec("extra") is not None)
print("platform", importlib.util.find_spec("grpc") is not None)
"""


def test_an_environment_is_built_once_and_lent(make: MakeJob, runner_bus: servers.Nats) -> None:
    run = f"python -c '{SCRIPT}'; tiny-tool; echo $CAIRN_ENVIRONMENT"
    wanted = {"requirements_file": "requirements.txt"}
    first = make(run, wanted, setup="pip install extra")
    assert first.run(180)["exit_code"] == 0, printed(first, runner_bus)
    out = printed(first, runner_bus)
    prefix = str(first.folder / "env" / "env")
    assert {"prefix True True", "extra True", "platform False", f"tool {prefix}"} <= set(out)
    assert any("Successfully installed tiny-1.0" in line for line in out), "pip's words are there"
    words = said(first, runner_bus)
    digest = out[-1]
    assert words[0].startswith(f"building environment {digest} with Python ")
    assert words[1].startswith(f"environment {digest} (Python ")
    assert words[1].split("packages): ")[1].startswith("built in")
    [updated] = [event.run_updated for event in first.events(runner_bus.url) if event.HasField("run_updated")]
    assert updated.environment["environment"].startswith(f"{digest} (Python ")

    # Lines in the task file that say the same are the same environment.
    second = make(run, {"requirements": ["tiny==1.0"]})
    assert second.run(60)["exit_code"] == 0
    out = printed(second, runner_bus)
    assert {"prefix True True", "extra False"} <= set(out), "what one attempt installs stays with it"
    assert not any("pip" in line or "Collecting" in line for line in out)
    words = said(second, runner_bus)
    assert "packages): ready in" in words[0]
    assert words[1] == "starting the command"
    assert out[-1] == digest


def test_two_at_once_build_it_once_and_a_killed_build_is_built_anew(
    make: MakeJob, runner_bus: servers.Nats, tmp_path: Path
) -> None:
    wanted = {"requirements_file": "requirements.txt"}
    killed = make("true", wanted)
    process = killed.start()
    environments = tmp_path / "environments"
    killed.until(lambda: [path for path in environments.glob("*/bin") if path.is_dir()], 60)
    process.kill()
    process.wait()
    jobs = [make("python -c 'import tiny'", wanted) for _ in range(2)]
    processes = [job.start() for job in jobs]
    for job, process in zip(jobs, processes, strict=True):
        assert process.wait(180) == 0, job.log()
        assert job.end()["exit_code"] == 0
    words = [said(job, runner_bus) for job in jobs]
    assert sum(any(line.startswith("building") for line in each) for each in words) == 1
    assert sum(any(line.startswith("waiting for environment") for line in each) for each in words) == 1


# A package that builds itself, so that nothing has to be fetched for it.
BACKEND = """
import os, zipfile

def build_editable(folder, config_settings=None, metadata_directory=None):
    name = "mine-1.0-py3-none-any.whl"
    with zipfile.ZipFile(os.path.join(folder, name), "w") as wheel:
        wheel.writestr("mine.pth", os.getcwd() + os.linesep)
        wheel.writestr("mine-1.0.dist-info/METADATA", "Metadata-Version: 2.1\\nName: mine\\nVersion: 1.0\\n")
        wheel.writestr("mine-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\\nTag: py3-none-any\\n")
        wheel.writestr("mine-1.0.dist-info/RECORD", "")
    return name
"""
PROJECT = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'


def test_what_is_editable_belongs_to_the_attempt(make: MakeJob, runner_bus: servers.Nats) -> None:
    job = make(
        "cd / && python -c 'import mine, tiny; print(mine.__file__)'", {"requirements": ["-e .", "tiny"]}
    )
    work = job.folder / "work"
    (work / "pyproject.toml").write_text(PROJECT)
    (work / "backend.py").write_text(BACKEND)
    (work / "mine.py").touch()
    assert job.run(240)["exit_code"] == 0, printed(job, runner_bus)[-20:]
    assert printed(job, runner_bus)[-1] == str(work / "mine.py")
    assert "installing -e . for this attempt alone" in said(job, runner_bus)


@pytest.mark.parametrize(
    ("wanted", "envs", "told", "code"),
    [
        ({"requirements": ["nosuch==1"]}, {}, "There is no package `nosuch==1` for Python", 1),
        ({"requirements_file": "gone.txt"}, {}, "cairn.env.requirements: there is no file gone.txt", 1),
        ({"python": "3.99"}, {"PATH": "/usr/bin:/bin"}, "there is no Python 3.99 on this machine", 1),
        ({"requirements": ["tiny"]}, AWAY, "could not be fetched", None),
    ],
)  # fmt: skip
def test_why_it_cannot_be_built_is_told(
    make: MakeJob, wanted: dict[str, Any], envs: dict[str, str], told: str, code: int | None
) -> None:
    end = make("touch started", wanted, envs=envs).run(180)
    assert (end["phase"], end["exit_code"], end["start_time"]) == ("environment", code, None)
    assert told in end["message"]
    assert end["hopeless"] == (code is not None)


def test_a_build_can_be_stopped_and_leaves_nothing(make: MakeJob, tmp_path: Path) -> None:
    job = make("touch started", {"requirements": ["tiny"]})
    process = job.start()
    environments = tmp_path / "environments"
    job.until(lambda: list(environments.glob("*/bin")), 60)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    end = job.end()
    assert (end["stopped"], end["phase"], end["start_time"]) == (True, "environment", None)
    assert not [path for path in environments.iterdir() if path.is_dir()]


def test_a_cuda_that_the_driver_cannot_do_is_refused_before_anything_is_built(
    make: MakeJob, tmp_path: Path
) -> None:
    tool = tmp_path / "bin" / "nvidia-smi"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\necho '470.57.02, 8.0'\n")
    tool.chmod(0o700)
    job = make("true", {"requirements": ["torch==2.3.0+cu121"]}, gpu_ids=[[0]])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")
        end = job.run(60)
    assert (end["phase"], end["exit_code"], end["hopeless"]) == ("environment", 1, True)
    assert "needs an NVIDIA driver of 525 or newer; this machine has 470.57.2" in end["message"]


def test_packages_come_from_the_index(make: MakeJob, runner_bus: servers.Nats, tmp_path: Path) -> None:
    wanted = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(tmp_path), "six==1.16.0"]
    if subprocess.run(wanted, capture_output=True, timeout=60).returncode != 0:
        pytest.skip("the package index cannot be reached from here")
    plain = {"PIP_NO_INDEX": "0", "PIP_FIND_LINKS": "", "PIP_CONFIG_FILE": ""}
    kept = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    job = make("python -c 'import six; print(six.__version__)'", {"requirements": ["six==1.16.0"]},
               envs={**plain, **kept})  # fmt: skip
    assert job.run(240)["exit_code"] == 0, printed(job, runner_bus)[-20:]
    assert printed(job, runner_bus)[-1] == "1.16.0"


def test_the_interpreter_that_runs_this_is_the_one_for_its_version(
    make: MakeJob, runner_bus: servers.Nats
) -> None:
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    job = make("python -c 'import sys; print(sys.version_info[:2])'", {"python": version})
    assert job.run(120)["exit_code"] == 0
    assert printed(job, runner_bus)[-1] == str(sys.version_info[:2])

"""Conda environments without conda: the real runner, the real py-rattler, a channel in a folder."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from cairn._runner import recipe
from tests.harness import servers
from tests.harness.conda_channel import VERSION, Channel
from tests.harness.runner import Job
from tests.service.test_runner_environment import printed, said, wheel

pytestmark = pytest.mark.usefixtures("runner_bus")
MakeJob = Callable[..., Job]
MANY = 30


@pytest.fixture(scope="module")
def wheels(module_folder: Path) -> Path:
    """The only place that pip is told of: py-rattler, and what the tests' `pip:` names."""
    folder = module_folder / "wheels"
    command = [sys.executable, "-m", "pip", "download", "-q", "--only-binary", ":all:", "-d", str(folder)]
    if subprocess.run([*command, *recipe.RATTLER], capture_output=True, timeout=240).returncode != 0:
        pytest.skip("py-rattler cannot be had from the package index here")
    wheel(folder, "tiny", "import sys\ndef main():\n    print('tool', sys.prefix)\n")
    return folder


@pytest.fixture(scope="module")
def channel(module_folder: Path) -> Channel:
    channel = Channel(module_folder / "channel")
    channel.add_python()
    channel.add("mine", "1.0", {"site-packages/mine.py": "at = 1\n"}, depends=["python"], python=True)
    channel.add("plain", "1.0", {"share/plain": "x"})
    channel.add("old", "1.0", {"share/old": "x"}, depends=["mine <1"])
    channel.add("quick", "1.0", {"share/quick": "x"}, depends=["__cuda >=999"])
    for number in range(MANY):
        files = {f"share/many{number}/{each}": "x" for each in range(10)}
        channel.add(f"many{number}", "1.0", files)
    return channel


@pytest.fixture
def make(make_job: MakeJob, wheels: Path, channel: Channel, module_folder: Path) -> MakeJob:
    """A job with this environment.yml; all tests share a folder of environments, and so the tool."""

    def made(run: str, file: str, **fields: Any) -> Job:
        wanted = {"conda": "environment.yml"}
        job = make_job(run, environment=wanted, environments=str(module_folder / "environments"), **fields)
        path = "/usr/bin:/bin"
        assert recipe.find_conda(path) is None
        pip = {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": "/dev/null", "PIP_FIND_LINKS": str(wheels)}
        job.launch["envs"] = {**pip, "PATH": path}
        work = job.folder / "work"
        work.mkdir()
        (work / "environment.yml").write_text(file.replace("CHANNEL", channel.url))
        return job

    return made


FILE = """
name: any
channels: [CHANNEL]
dependencies:
  - python=3
  - mine=1.0
  - pip:
    - tiny==1.0
"""
SCRIPT = """
import importlib.util, os, sys
import cairn, mine, tiny
cairn.log({"x": 1.0})
print("prefix", sys.prefix == os.environ["CONDA_PREFIX"])
print("tool", importlib.util.find_spec("rattler") is not None)
"""


def test_an_environment_is_built_once_without_conda_and_lent(make: MakeJob, runner_bus: servers.Nats) -> None:
    run = f"python -c '{SCRIPT}'; tiny-tool; echo $CAIRN_ENVIRONMENT"
    first = make(run, FILE)
    assert first.run(240)["exit_code"] == 0, printed(first, runner_bus)[-20:]
    out = printed(first, runner_bus)[-20:]
    digest = out[-1]
    assert {"prefix True", "tool False"} <= set(out)
    assert any("Successfully installed tiny-1.0" in line for line in out), "pip's words are there"
    words = said(first, runner_bus)
    assert words[0] == f"building environment {digest}"
    assert any(line.startswith(f"environment {digest} (Python {VERSION}, ") for line in words)

    second = make(run, FILE)
    assert second.run(60)["exit_code"] == 0
    words = said(second, runner_bus)
    assert words[0].startswith(f"environment {digest} (Python {VERSION}, ")
    assert ": ready in" in words[0]
    assert printed(second, runner_bus)[-1] == digest

    changed = make(
        "ls $CONDA_PREFIX/share; echo $CAIRN_ENVIRONMENT", FILE.replace("=1.0", "=1.0\n  - plain", 1)
    )
    assert changed.run(120)["exit_code"] == 0, printed(changed, runner_bus)
    words = said(changed, runner_bus)
    *_, share, other = printed(changed, runner_bus)
    assert (share, words[0]) == ("plain", f"building environment {other}")
    assert other != digest
    assert not any("py-rattler" in line for line in words), "the tool is lent, too"


def test_a_file_that_pip_lines_name_decides_too(make: MakeJob, runner_bus: servers.Nats) -> None:
    digests = set()
    for text in ("", "tiny\n", "tiny==1.0\n"):
        job = make(
            "echo $CAIRN_ENVIRONMENT", "dependencies: [python, {pip: [-r more.txt]}]\nchannels: [CHANNEL]"
        )
        (job.folder / "work" / "more.txt").write_text(text)
        assert job.run(240)["exit_code"] == 0, printed(job, runner_bus)
        digests.add(printed(job, runner_bus)[-1])
    assert len(digests) == 3


@pytest.mark.parametrize(
    ("file", "told", "code"),
    [
        ("channels: [CHANNEL]\ndependencies: [python, nosuch>=2]",
         "There is no package `nosuch >=2` for Linux ", 1),
        ("channels: [CHANNEL]\ndependencies: [python, old]",
         "`old 1.0` needs `mine <1`, which is not in file://", 1),
        ("channels: [CHANNEL]\ndependencies: [python, quick]",
         "`quick 1.0` needs `__cuda >=999`, which this machine does not have", 1),
        ("channels: [CHANNEL]\ndependencies: [plain]", "There is no Python in this environment: name", 1),
        ("channels: [CHANNEL/no]\ndependencies: [python]", "/channel/no: correct `channels`.", 1),
        ("channels: ['http://u:secret@127.0.0.1:1/c']\ndependencies: [python]",
         "cairn.env.conda: http://***@127.0.0.1:1/c/ could not be reached (Connection refused", None),
        ("dependencies: [python\n  - x: ]:", "environment.yml is no YAML: line 2:", 1),
        ("dependencies:\n  - python: 3", "is to be a list of texts, and has [{python: 3}]", 1),
        ("- python", "environment.yml is no mapping", 1),
        ("dependencies: [python, =3]", "`=3` is no package as conda writes it", 1),
        ("channels: [CHANNEL]\ndependencies: [python, {pip: [nosuch]}]",
         f"There is no package `nosuch` for Python {VERSION}", 1),
        ("dependencies: [python, {pip: [-e .]}]", "`-e .` belongs to one working directory", 1),
    ],
)  # fmt: skip
def test_why_it_cannot_be_built_is_told(
    make: MakeJob, runner_bus: servers.Nats, file: str, told: str, code: int | None
) -> None:
    job = make("touch started", file)
    end = job.run(240)
    assert told in end["message"], (end, printed(job, runner_bus))
    assert (end["phase"], end["exit_code"], end["start_time"]) == ("environment", code, None)
    assert end["hopeless"] == (code is not None)
    assert "secret" not in end["message"]
    assert not any("Traceback" in line for line in printed(job, runner_bus))


def test_without_an_index_what_can_be_done_is_told(make: MakeJob, tmp_path: Path) -> None:
    job = make("true", FILE)
    job.launch["environments"] = str(tmp_path / "environments")
    job.launch["envs"]["PIP_FIND_LINKS"] = ""
    end = job.run(120)
    assert end["message"].startswith(
        "cairn.env.conda: there is no micromamba, mamba or conda on this machine"
    )
    assert "`py-rattler" in end["message"]
    assert (end["exit_code"], end["hopeless"]) == (1, True)


def test_on_a_busy_machine_no_build_dies_of_its_own_end(
    make: MakeJob, runner_bus: servers.Nats, module_folder: Path, channel: Channel, tmp_path: Path
) -> None:
    """Of 60 whose interpreter ended in the ordinary way, 10 did."""
    job = make("true", "channels: [CHANNEL]\ndependencies: [python]")
    assert job.run(240)["exit_code"] == 0, printed(job, runner_bus)
    [found] = (module_folder / "environments").glob("*/lib/python3*/site-packages/rattler")
    file = tmp_path / "environment.yml"
    names = ", ".join(["python", *(f"many{number}" for number in range(MANY))])
    file.write_text(f"channels: ['{channel.url}']\ndependencies: [{names}]")

    def build(number: int) -> int:
        prefix = tmp_path / str(number)
        script = recipe.rattler(found.parents[3], prefix, file)
        code = subprocess.run(["/bin/bash", "-c", script], capture_output=True, timeout=120).returncode
        assert len(list(prefix.glob("conda-meta/*.json"))) == MANY + 1
        shutil.rmtree(prefix)
        return code

    with ThreadPoolExecutor(6) as pool:
        assert Counter(pool.map(build, range(24))) == {0: 24}

"""`cairn.env` of a task file: what is taken, what is refused where, and how a failed build is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cairn_common.errors import InvalidArgument
from cairn_scheduler import environment
from cairn_scheduler.causes import Evidence, classify
from cairn_scheduler.folders import Folder
from cairn_scheduler.model import Cause, Environment
from cairn_scheduler.task import parse


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("{requirements: requirements.txt}", Environment(requirements_file="requirements.txt")),
        ("{requirements: ./a/../a/r.txt}", None),
        ("{python: '3.11', requirements: [numpy, ' torch==2.6.0 ']}",
         Environment("3.11", ("numpy", "torch==2.6.0"))),
        ("{python: 3.11.9}", Environment("3.11.9")),
        ("{lock: code/uv.lock, python: '3.12'}", Environment("3.12", lock="code/uv.lock")),
        ("{conda: environment.yml}", Environment(conda="environment.yml")),
    ],
)  # fmt: skip
def test_an_environment_is_read(text: str, wanted: Environment | None) -> None:
    task = f"run: x\ncairn: {{env: {text}}}"
    if wanted is None:
        with pytest.raises(InvalidArgument):
            parse(task)
    else:
        assert parse(task).spec.environment == wanted


def test_without_the_block_there_is_none() -> None:
    assert parse("run: x").spec.environment is None
    assert parse("run: x\ncairn: {env: {}}").spec.environment is None


@pytest.mark.parametrize(
    ("text", "path", "told"),
    [
        ("requirements.txt", "cairn.env", "a mapping"),
        ("{image: x}", "cairn.env.image", "no containers"),
        ("{requirments: x}", "cairn.env.requirments", "known are"),
        ("{python: 3.10}", "cairn.env.python", "in quotes"),
        ("{python: '2.7'}", "cairn.env.python", "a version such as"),
        ("{requirements: a.txt, lock: uv.lock}", "cairn.env.lock", "beside `requirements`"),
        ("{requirements: []}", "cairn.env.requirements", "a list of 1 to"),
        ("{requirements: [numpy, 7]}", "cairn.env.requirements[1]", "one line of text"),
        ("{requirements: ['-r other.txt']}", "cairn.env.requirements[0]", "cannot include a file"),
        ("{requirements: ['-rother.txt']}", "cairn.env.requirements[0]", "cannot include a file"),
        ("{requirements: /etc/passwd}", "cairn.env.requirements", "out of the workdir"),
        ("{requirements: ../r.txt}", "cairn.env.requirements", "out of the workdir"),
        ("{lock: poetry.lock}", "cairn.env.lock", "`uv.lock`"),
        ("{conda: e.yml, python: '3.11'}", "cairn.env.python", "conda file"),
    ],
)
def test_what_cannot_be_an_environment_is_refused_with_its_path(text: str, path: str, told: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        parse(f"run: x\ncairn: {{env: {text}}}")
    assert refused.value.metadata["path"] == path
    assert told in str(refused.value)


def test_a_file_needs_a_working_directory() -> None:
    wanted = parse("run: x\ncairn: {env: {requirements: r.txt}}").spec.environment
    environment.check_code(wanted, has_code=True)
    environment.check_code(Environment(requirements=("numpy",)), has_code=False)
    with pytest.raises(InvalidArgument) as refused:
        environment.check_code(wanted, has_code=False)
    assert refused.value.metadata["path"] == "cairn.env.requirements"


@pytest.mark.parametrize(
    ("end", "cause", "hopeless"),
    [
        ({"exit_code": 1, "message": "There is no package `x`.", "hopeless": True}, Cause.USER_ERROR, True),
        ({"exit_code": None, "message": "The network did not answer."}, Cause.INFRA, False),
        ({"exit_code": None, "signal": 9, "oom": True}, Cause.OOM, False),
        ({"exit_code": 137, "signal": 9}, Cause.INFRA, False),
    ],
)
def test_a_build_that_failed_is_told_by_its_fault(
    tmp_path: Path, end: dict[str, object], cause: Cause, hopeless: bool
) -> None:
    folder = Folder(tmp_path, "a")
    folder.path.mkdir()
    lines = ["ERROR: Connection refused and CUDA out of memory"]
    written = {"phase": "environment", "end_time": 1.0, "last_lines": lines, **end}
    (folder.path / "end.json").write_text(json.dumps(written))
    evidence = folder.end()
    assert evidence is not None
    ending = classify(evidence, asked=None)
    assert (ending.cause, ending.hopeless) == (cause, hopeless)
    assert str(end.get("message", "")) in ending.message
    assert classify(Evidence(phase="environment", exit_code=1), asked=None).cause is Cause.USER_ERROR

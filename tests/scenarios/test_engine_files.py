"""The scenario files beside this one, each case a test: expected victims or shares, then five calm rounds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.scenarios.cases import run
from tests.scenarios.deviations import DEVIATIONS

HERE = Path(__file__).parent
CASES = [
    pytest.param(case, id=f"{path.stem}: {case['name']}")
    for path in sorted(HERE.glob("kueue_*.json"))
    for case in json.loads(path.read_text())
]


@pytest.mark.parametrize("case", CASES)
def test_it_decides_as_expected_and_stays_so(case: dict[str, Any]) -> None:
    wrong = run(case)
    assert bool(wrong) == (case["name"] in DEVIATIONS), wrong


def test_the_runner_fails_for_a_file_with_a_wrong_expectation(tmp_path: Path) -> None:
    cases = json.loads((HERE / "kueue_fair_preemption.json").read_text())[:2]
    cases[1]["want_preempted"] = []
    (tmp_path / "wrong.json").write_text(json.dumps(cases))
    done = subprocess.run(
        [sys.executable, "-m", "tests.scenarios", str(tmp_path / "wrong.json")],
        cwd=HERE.parents[1],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert "FAIL" in done.stdout
    assert "1 of 2 as expected" in done.stdout

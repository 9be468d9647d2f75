"""The rules of the house, held by the tools that know them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


def check(*command: str, cwd: Path = ROOT) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"


def tracked(*patterns: str) -> list[Path]:
    """Files that git tracks; everything below the root where this is no checkout (an unpacked archive)."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *patterns],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
    )
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


def test_ruff_finds_nothing() -> None:
    check(str(BIN / "ruff"), "check", ".")
    check(str(BIN / "ruff"), "format", "--check", ".")


def test_types_hold_under_strict() -> None:
    check(str(BIN / "mypy"))


def test_imports_keep_to_their_layer() -> None:
    check(str(BIN / "lint-imports"))


def test_protos_keep_to_buf_standard() -> None:
    check(str(BIN / "buf"), "lint", cwd=ROOT / "proto")


def test_no_file_passes_500_lines() -> None:
    long = {
        str(path): lines
        for path in tracked("*.py", "*.js", "*.css", "*.sql", "*.proto", "*.md")
        if (lines := len(path.read_text().splitlines())) > 500
    }
    assert not long


def test_the_readme_stays_short_and_ci_runs_its_command() -> None:
    readme = (ROOT / "README.md").read_text().splitlines()
    assert len(readme) <= 150
    commands = [line for line in readme if line.startswith("python3 -m venv")]
    assert len(commands) == 2, "one command runs the demo, one runs the tests"
    assert commands[0].endswith("cairn demo")
    assert commands[1].endswith("pytest -n 2")
    assert "README.md" in (ROOT / ".ci/run").read_text()


def test_every_service_has_its_contract_page() -> None:
    for service in ("scheduler", "quota", "tracker", "gateway", "server", "common"):
        assert (ROOT / "services" / service / "README.md").is_file(), service

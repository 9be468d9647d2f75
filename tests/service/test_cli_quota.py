"""`cairn quota` and `cairn usage`, as an admin types them, against the whole platform."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.browser import browse, page
from tests.harness.platform import Platform

TREE = """
currency: USD
flavors: {local: {price: 1.5}}
tree:
  organisation: acme
  children:
    - {team: main, quotas: {local: {cpu: {nominal: 1, borrow_limit: 1}}}, children: [{user: admin}]}
    - {team: vision, quotas: {local: {cpu: 1}}}
budgets:
  month: {node: main, unit: gpu-hours, amount: 10, window: {calendar: month}}
"""


@pytest.fixture(scope="module")
def platform(session_folder: Path) -> Iterator[Platform]:
    platform = Platform(session_folder / "cli-quota")
    (session_folder / "cli-quota").mkdir()
    platform.up()
    yield platform
    platform.down()


def told(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_an_admin_describes_the_tree_in_one_file(platform: Platform, tmp_path: Path) -> None:
    file = tmp_path / "tree.yaml"
    file.write_text(TREE)
    different = platform.cairn("quota", "diff", str(file))
    assert different.returncode == 1
    assert "+ nodes.vision  {team: vision, quotas: {local: {cpu: 1}}, parent: acme}" in different.stdout
    assert "+ team vision  is not there yet; you will own it" in different.stdout
    assert "+ team main" not in different.stdout
    assert "at version 1" in platform.cairn("quota", "apply", str(file)).stderr
    assert platform.cairn("quota", "diff", str(file)).returncode == 0
    drawn = told(platform.cairn("quota", "tree"))
    assert "└── vision  team" in drawn
    assert "0 of 2" in drawn, "the organisation has what its teams bring in"
    assert "10.00 GPU-h" in drawn
    exported = told(platform.cairn("quota", "export"))
    assert exported.startswith("version: 1\n")
    mine, theirs = tmp_path / "mine.yaml", tmp_path / "theirs.yaml"
    mine.write_text(exported.replace("borrow_limit: 1", "borrow_limit: 0"))
    theirs.write_text(exported.replace("borrow_limit: 1", "borrow_limit: 3"))
    assert "at version 2" in platform.cairn("quota", "apply", str(theirs)).stderr
    assert theirs.read_text().startswith("version: 2\n"), "its next edit begins at what it made"
    stale = platform.cairn("quota", "apply", str(mine))
    assert stale.returncode != 0
    assert "changed since it was read" in stale.stderr
    assert "~ nodes.main.quotas.local.cpu.borrow_limit  1 → 3" in told(platform.cairn("quota", "log"))


def test_a_file_that_is_wrong_is_refused_with_path_and_cure(platform: Platform, tmp_path: Path) -> None:
    file = tmp_path / "wrong.yaml"
    file.write_text(TREE.replace("nominal", "nominel"))
    refused = platform.cairn("quota", "apply", str(file))
    assert refused.returncode == 2
    assert f"{file}: tree.children[0].quotas.local.cpu.nominel" in refused.stderr
    assert "did you mean `nominal`?" in refused.stderr
    file.write_text("tree: [")
    assert "line 1" in platform.cairn("quota", "diff", str(file)).stderr
    assert platform.cairn("quota", "apply", str(tmp_path / "none.yaml")).returncode == 2


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium on this machine")
def test_the_page_shows_the_tree_and_its_budgets(platform: Platform, tmp_path: Path) -> None:
    token = json.loads((platform.data / "secrets.json").read_text())["admin_token"]
    page = browse(f"{platform.status()['url']}/#token={token}&view=/quota", tmp_path)
    for words in ("<b>vision</b>", "local cpu", "<b>month</b>", "10 GPU-h", "deny new"):
        assert words in page
    assert "That did not work" not in page


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium on this machine")
def test_the_page_keeps_secrets_and_shows_none(platform: Platform, tmp_path: Path) -> None:
    token = json.loads((platform.data / "secrets.json").read_text())["admin_token"]
    with page(tmp_path / "profile") as shown:
        shown.go(f"{platform.status()['url']}/#token={token}&view=/secrets")
        rows, said = (
            "document.querySelector('tbody').innerText",
            "document.querySelector('[role=status]:not(#live)')",
        )
        shown.wait(f"document.querySelector('tbody') && {rows}.includes('Nothing yet')")
        shown.ask(
            "const [name, value] = document.querySelectorAll('form input');"
            "name.value = 'HF_TOKEN'; value.value = 'sesame-open-42';"
            "document.querySelector('form button').click()"
        )
        shown.wait(f"{rows}.includes('HF_TOKEN')")
        [kept] = platform.client().secrets()
        assert (kept["variable"], kept["setter"]) == ("HF_TOKEN", "users/admin")
        whole = shown.ask(
            "document.documentElement.outerHTML + document.querySelector('[type=password]').value"
        )
        assert "sesame-open-42" not in whole
        shown.ask("window.confirm = () => true; document.querySelector('tbody button').click()")
        shown.wait(f"{said}.textContent === 'HF_TOKEN is removed.'")
        assert platform.client().secrets() == []


def test_a_budget_is_adjusted_with_a_reason(platform: Platform) -> None:
    assert platform.cairn("quota", "adjust", "month", "5").returncode == 2, "a reason is asked for"
    done = told(platform.cairn("quota", "adjust", "month", "5", "--reason", "deadline"))
    assert "15.00 GPU-h" in done
    unknown = platform.cairn("quota", "adjust", "year", "5", "--reason", "x")
    assert "there are: month" in unknown.stderr


def test_usage_in_a_table_in_csv_and_in_json_is_the_same(platform: Platform, tmp_path: Path) -> None:
    told(platform.cairn("run", "-f", "--", "sleep", "1", cwd=tmp_path))
    client = platform.client()
    for event in client.events(patience=60):
        if client.usage_sums({}).get("rows"):
            break
        assert event.type != "heartbeat", "the job's end was not charged"
    rows = json.loads(told(platform.cairn("usage", "--by", "user,flavor", "--json")))["rows"]
    table = list(csv.DictReader(told(platform.cairn("usage", "--by", "user,flavor", "--csv")).splitlines()))
    assert [(row["user"], row["flavor"]) for row in table] == [("admin", "local")]
    assert [int(row["cpu_millis"]) for row in table] == [int(row["cpu_millis"]) for row in rows]
    assert int(table[0]["cpu_millis"]) >= 1000
    entries = client.api.pages("/api/v1/teams/main/ledger", "entries")
    charged = sum(
        (1 if one["kind"] == "SETTLE" else -1) * int(one["amount"])
        for one in entries
        if not one.get("budget") and one["unit"] == "CPU_HOURS"
    )
    assert charged == int(table[0]["cpu_millis"])
    assert "admin" in told(platform.cairn("usage", "--by", "user", "--since", "1h", "--period", "day"))
    assert "is no time" in platform.cairn("usage", "--since", "yesterday").stderr
    assert platform.cairn("usage", "--by", "colour").returncode == 2

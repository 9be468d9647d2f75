"""The demo as a person runs it: nothing is up before, everything is told after."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cairn_server.demo.script import LAST_STEP
from tests.harness.platform import Platform


@pytest.mark.timeout(600)
def test_the_demo_holds_what_it_promises_and_says_it_in_json(data_folder: Path) -> None:
    platform = Platform(data_folder)
    try:
        done = platform.cairn("demo", "--json", timeout=500)
        assert done.returncode == 0, done.stdout + done.stderr
        facts = json.loads(done.stdout)
        assert set(facts) == {"jobs", "model", "url"}
        assert [job["state"] for job in facts["jobs"]] == ["SUCCEEDED"] * 4
        told = {"id", "state", "attempts", "resumed_step", "best_accuracy"}
        assert all(set(job) == told for job in facts["jobs"])
        assert all(job["best_accuracy"] > 0.9 for job in facts["jobs"])
        (killed,) = [job for job in facts["jobs"] if job["attempts"] == 2]
        assert killed["resumed_step"] > 0
        assert facts["model"] == {"name": "digits", "version": 1, "alias": "best"}

        client = platform.client()
        lineage = client.lineage("digits", "best")
        assert lineage["run"].rpartition("/")[2] in {job["id"] for job in facts["jobs"]}
        assert len(lineage["code_digest"]) == 64
        assert any("digits-data" in name for name in lineage["inputs"])
        for job in facts["jobs"]:
            # The script just ends after its last save: what it saved is committed all the same.
            assert max(version["step"] for version in client.checkpoints(job["id"])) == LAST_STEP
        jobs = [client.job(job["id"]) for job in facts["jobs"]]
        assert_at_most_two_at_a_time(jobs)
    finally:
        platform.cairn("down")


def assert_at_most_two_at_a_time(jobs: list[dict[str, object]]) -> None:
    edges = []
    for job in jobs:
        for attempt in job["attempts"]:  # type: ignore[attr-defined]
            edges += [(attempt["start_time"], 1), (attempt["end_time"], -1)]
    running = most = 0
    for _, change in sorted(edges):
        running += change
        most = max(most, running)
    assert most == 2

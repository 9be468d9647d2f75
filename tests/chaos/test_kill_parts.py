"""`kill -9` of each part of the platform, three times in the middle of a demo: it still ends right."""

from __future__ import annotations

import json
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cairn.client import Client
from tests.harness.platform import Platform

# Those of a row die together, which is worse than one alone, and takes two demos instead of seven.
PARTS = (("scheduler", "postgres", "tracker"), ("quota", "gateway", "nats", "s3"))
# They die when the first training of the demo gets to each of these.
MOMENTS = ("RUNNING", "RECOVERING", "SUCCEEDED")


@pytest.fixture(scope="module")
def platform(module_folder: Path) -> Iterator[Platform]:
    platform = Platform(module_folder, CAIRN_LOCAL_CPUS="2")
    platform.up()
    try:
        yield platform
    finally:
        platform.down()


@pytest.mark.chaos
@pytest.mark.timeout(600)
@pytest.mark.parametrize("parts", PARTS, ids="+".join)
def test_the_demo_ends_right_though_parts_are_killed_again_and_again(
    platform: Platform, parts: tuple[str, ...]
) -> None:
    client = platform.client()
    before = {job["uid"] for job in client.jobs()}
    demo = subprocess.Popen(
        [platform.program, "demo", "--json"], env=platform.env, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    killer = Killer(platform, parts, before)
    killer.start()
    stdout, stderr = demo.communicate(timeout=500)
    killer.finish()

    assert demo.returncode == 0, f"{stdout}\n{stderr}"
    assert killer.failure is None, killer.failure
    assert killer.moments == list(MOMENTS), "they were not killed as often as they should have been"
    facts = json.loads(stdout)
    assert [job["state"] for job in facts["jobs"]] == ["SUCCEEDED"] * 4
    # One attempt each, two for the one whose worker the demo kills: no death of a part costs an attempt.
    assert sorted(job["attempts"] for job in facts["jobs"]) == [1, 1, 1, 2]
    assert [job["resumed_step"] > 0 for job in facts["jobs"] if job["attempts"] == 2] == [True]
    for job in facts["jobs"]:
        assert_no_line_lost_or_doubled(client, job)
    assert_nothing_is_held(client)


def assert_no_line_lost_or_doubled(client: Client, job: dict[str, Any]) -> None:
    lines: list[dict[str, Any]] = []
    cursor = ""
    while page := client.logs(job["id"], cursor=cursor):
        if not page.get("lines"):
            break
        lines += page["lines"]
        cursor = page["cursor"]
    seen = Counter((line.get("attempt", 0), line.get("rank", 0), line["number"]) for line in lines)
    assert max(seen.values()) == 1
    for attempt in range(1, job["attempts"] + 1):
        numbers = sorted(number for of, _, number in seen if of == attempt)
        assert numbers == list(range(1, len(numbers) + 1)), f"attempt {attempt} has a hole in its log"
    epochs = [line["text"].split()[1] for line in lines if line["text"].startswith("epoch ")]
    assert set(epochs) == {str(epoch) for epoch in range(24)}


def assert_nothing_is_held(client: Client) -> None:
    """Settling is told by events: it is awaited, for as long as a person would."""
    for event in client.events(patience=60):
        held = client.team_info().get("held", {})
        if not any(held.values()):
            return
        assert event.type != "heartbeat", f"still held when nothing runs: {held}"


class Killer(threading.Thread):
    """Kills these parts each time the demo's trainings reach the next moment."""

    def __init__(self, platform: Platform, parts: tuple[str, ...], before: set[str]) -> None:
        super().__init__(daemon=True)
        self.moments: list[str] = []
        self.failure: str | None = None
        self._platform, self._parts, self._before = platform, parts, before
        self._ended = threading.Event()

    def run(self) -> None:
        try:
            self._watch()
        except Exception as error:  # told by the test, which would otherwise not see it
            self.failure = repr(error)

    def finish(self) -> None:
        self._ended.set()
        self.join(timeout=60)

    def _watch(self) -> None:
        client = self._platform.client()
        for event in client.events(stop=self._ended):
            jobs = list(client.jobs(limit=8)) if event.type == "open" else [event.data]
            for job in jobs:
                if job.get("uid", "") in self._before or len(self.moments) == len(MOMENTS):
                    continue
                if job.get("state") == MOMENTS[len(self.moments)]:
                    for part in self._parts:
                        self._platform.kill(part)
                    self.moments.append(str(job["state"]))
            if len(self.moments) == len(MOMENTS):
                return


def test_the_killer_knows_the_parts(platform: Platform) -> None:
    names = {process["name"] for process in platform.status()["processes"]}
    assert names >= {part for parts in PARTS for part in parts}
    assert Path(platform.status()["data"]) == platform.data

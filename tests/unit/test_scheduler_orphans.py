"""What counts as an orphan; without a place or a database."""

from __future__ import annotations

from datetime import UTC, datetime

from cairn_scheduler.cluster import Held
from cairn_scheduler.orphans import Owner, orphans

EARLY, LATE = (datetime(2026, 1, day, tzinfo=UTC) for day in (1, 2))


def test_what_has_no_living_attempt_is_an_orphan_oldest_first() -> None:
    seen = {
        "local": [Held("ended", "processes 7", create_time=LATE)],
        "skypilot": [
            Held("lives", "cairn-x-lives", create_time=EARLY),
            Held("unknown", "cairn-x-unknown"),
            Held("leaves", "cairn-x-leaves", create_time=EARLY, leaving=True),
        ],
    }
    owners = {
        "lives": Owner("main", "job 1", living=True),
        "ended": Owner("main", "job 2", living=False),
        "leaves": Owner("main", "job 3", living=False),
    }
    found = orphans(seen, owners)
    assert [(one.pool, one.held.attempt_uid) for one in found] == [
        ("skypilot", "leaves"),
        ("local", "ended"),
        ("skypilot", "unknown"),
    ]
    assert [one.owner for one in found] == [owners["leaves"], owners["ended"], None]


def test_nothing_held_is_no_orphan() -> None:
    assert orphans({"local": [], "skypilot": []}, {}) == []

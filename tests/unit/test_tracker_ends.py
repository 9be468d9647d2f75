"""How a run ends in which several processes are, as one batch of events tells it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from cairn.job.v1 import events_pb2
from cairn_tracker.batch import Event, RunKey
from cairn_tracker.changes import LONGEST_NOTES, changes

NOW = datetime(2026, 1, 1, tzinfo=UTC)
RUN = RunKey("main", "run")


def started(at: int) -> Event:
    message = events_pb2.JobEvent()
    message.run_started.time.FromDatetime(NOW + timedelta(seconds=at))
    return Event(RUN, NOW.timestamp(), message)


def finished(at: int, *, well: bool = True) -> Event:
    message = events_pb2.JobEvent()
    message.run_finished.time.FromDatetime(NOW + timedelta(seconds=at))
    message.run_finished.succeeded = well
    message.run_finished.message = "" if well else f"of {at}"
    return Event(RUN, NOW.timestamp(), message)


@pytest.mark.parametrize(
    ("events", "end"),
    [
        ([started(0), finished(5)], (5, True, "")),
        ([started(0), started(1), finished(5, well=False), finished(9)], (9, False, "of 5")),
        ([started(0), finished(5, well=False), started(1), finished(9)], (9, False, "of 5")),
        ([started(0), finished(5, well=False), started(6), finished(9)], (9, True, "")),
        ([started(0), finished(9), finished(5, well=False)], (9, False, "of 5")),
        ([finished(5), started(6)], None),
    ],
)
def test_one_process_that_failed_is_the_end_unless_the_run_was_begun_again(
    events: list[Event], end: tuple[int, bool, str] | None
) -> None:
    told = changes(events)[RUN].finished
    found = told and ((told.time - NOW).seconds, told.succeeded, told.message)
    assert found == end


def test_what_was_not_said_is_none_and_what_is_too_long_is_cut() -> None:
    message = events_pb2.JobEvent()
    message.run_updated.notes = "x\0" * LONGEST_NOTES
    change = changes([Event(RUN, NOW.timestamp(), message)])[RUN]
    assert (change.group, len(change.notes or ""), change.told) == (None, LONGEST_NOTES, True)
    cleared = events_pb2.JobEvent()
    cleared.run_updated.notes = ""
    assert changes([Event(RUN, NOW.timestamp(), cleared)])[RUN].notes == ""

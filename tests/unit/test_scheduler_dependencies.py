"""Jobs that run after others: what is written, and what becomes of them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairn_common.errors import InvalidArgument
from cairn_scheduler import dependencies, yielding
from cairn_scheduler.dependencies import Fate, Progress, Wish, fate, wish
from cairn_scheduler.model import Cause, Dependency, Hold, IllegalStep, Job, Spec, State
from cairn_scheduler.task import parse
from cairn_scheduler.timeline import Kind, timeline

START = datetime(2026, 1, 1, tzinfo=UTC)
TRAIN = Dependency("01train", "train")
GRID = Dependency("01grid", "grid", sweep=True)
LATER = START + timedelta(seconds=5)


def waiting() -> Job:
    job = Job(
        uid="j", team="t", state=State.PENDING, revision=1, creator="users/u", create_time=START,
        update_time=START, spec=Spec(task="", setup="", run="x"), after=(TRAIN,),
    )  # fmt: skip
    return dependencies.waiting(job, "DependencyWait: it starts once job 01train (train) has succeeded")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("train", Wish("train")),
        ("train:ok", Wish("train")),
        (" train :any", Wish("train", any=True)),
        ("a:b", Wish("a:b")),
        ("teams/main/jobs/01x:any", Wish("teams/main/jobs/01x", any=True)),
    ],
)
def test_a_dependency_is_written_as_a_name_and_how_it_is_to_end(text: str, wanted: Wish) -> None:
    assert wish(text) == wanted


@pytest.mark.parametrize("text", ["", ":any", "  "])
def test_nothing_is_no_dependency(text: str) -> None:
    with pytest.raises(ValueError, match="names no job"):
        wish(text)


def test_a_task_file_names_what_it_runs_after() -> None:
    assert parse("run: x\ncairn: {after: [train, '01x:any']}").after == (Wish("train"), Wish("01x", any=True))
    assert parse("run: x\ncairn: {after: train}").after == (Wish("train"),)
    assert parse("run: x").after == ()


@pytest.mark.parametrize("given_", ["{train: ok}", "[1]", "[['a']]", "['']", "[" + "a," * 101 + "]"])
def test_what_names_no_jobs_is_refused_with_its_path(given_: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse(f"run: x\ncairn: {{after: {given_}}}")
    assert caught.value.metadata["path"] == "cairn.after"


@pytest.mark.parametrize(
    ("one", "seen", "wanted"),
    [
        (
            TRAIN,
            Progress(1, 1),
            Fate(reason="DependencyWait: it starts once job 01train (train) has succeeded"),
        ),
        (TRAIN, Progress(1, 0), Fate(free=True)),
        (
            TRAIN,
            Progress(1, 0, "01train", "FAILED"),
            Fate(hopeless="job 01train (train) ended as FAILED, and was to succeed before this one starts"),
        ),
        (replace(TRAIN, any=True), Progress(1, 0, "01train", "CANCELLED"), Fate(free=True)),
        (
            replace(TRAIN, any=True),
            Progress(1, 1),
            Fate(reason="DependencyWait: it starts once job 01train (train) has ended"),
        ),
        # One of a sweep has failed: the others need not be waited for.
        (
            GRID,
            Progress(8, 5, "01grid-3", "TIMED_OUT"),
            Fate(
                hopeless="job 01grid-3 of sweep 01grid (grid) ended as TIMED_OUT, and was to succeed before "
                "this one starts"
            ),
        ),
        (
            replace(GRID, any=True),
            Progress(8, 5, "01grid-3", "FAILED"),
            Fate(
                reason="DependencyWait: it starts once all 8 jobs of sweep 01grid (grid) have ended (5 to go)"
            ),
        ),
    ],
)  # fmt: skip
def test_what_becomes_of_a_job_that_waits_for_one(one: Dependency, seen: Progress, wanted: Fate) -> None:
    assert fate([one], {one.uid: seen}) == wanted


ENDS = st.sampled_from(["open", "SUCCEEDED", "FAILED", "CANCELLED", "TIMED_OUT"])


@given(st.lists(st.tuples(ENDS, st.booleans()), max_size=6))
def test_it_is_free_where_all_ended_as_they_should_and_hopeless_where_one_did_not(
    others: list[tuple[str, bool]],
) -> None:
    after = [Dependency(str(at), any=any_) for at, (_, any_) in enumerate(others)]
    progress = {
        str(at): Progress(1, int(end == "open"), "" if end in ("open", "SUCCEEDED") else str(at), end)
        for at, (end, _) in enumerate(others)
    }
    found = fate(after, progress)
    hopeless = any(not any_ and end not in ("open", "SUCCEEDED") for end, any_ in others)
    assert bool(found.hopeless) == hopeless
    assert found.free == (not hopeless and all(end != "open" for end, _ in others))
    assert bool(found.reason) == (not found.free and not hopeless)


def test_a_job_that_is_free_waits_in_the_queue_and_one_that_never_can_start_has_ended() -> None:
    free = dependencies.free(waiting(), LATER)
    assert (free.state, free.hold, free.retry_time) == (State.PENDING, None, None)
    gone = dependencies.give_up(waiting(), LATER, why="job 01train (train) ended as FAILED")
    assert (gone.state, gone.cause, gone.end_time) == (State.CANCELLED, Cause.CANCELLED, LATER)
    assert gone.message == "Not started: job 01train (train) ended as FAILED."
    with pytest.raises(IllegalStep):
        dependencies.free(free, LATER)
    (submitted, finished) = timeline(gone, [], [])
    assert (submitted.kind, finished.kind, finished.text) == (Kind.SUBMITTED, Kind.FINISHED, gone.message)


def test_who_holds_a_job_that_waits_for_others_leaves_it_waiting_for_them() -> None:
    held = yielding.hold(waiting(), LATER, kind=Hold.USER, why="not yet")
    assert (held.state, held.hold) == (State.HELD, Hold.USER)
    with pytest.raises(IllegalStep):
        dependencies.free(held, LATER)
    back = yielding.release(held, LATER)
    assert (back.state, back.hold) == (State.HELD, Hold.DEPENDENCY)
    assert back.reason.startswith("DependencyWait:")
    # Once it was admitted it waits for nobody any more.
    assert yielding.release(replace(held, admissions=1), LATER).state is State.PENDING

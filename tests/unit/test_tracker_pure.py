"""The tracker's decisions, without a server: states, comparison, marks, batches, summaries, manifests."""

from __future__ import annotations

import hashlib
import math
import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from cairn.job.v1 import events_pb2
from cairn_common.errors import InvalidArgument
from cairn_tracker import batch, compare, layout, manifest, summary
from cairn_tracker.batch import Event, MetricKey, RunKey
from cairn_tracker.changes import experiment_id
from cairn_tracker.drawing import Extent, width
from cairn_tracker.manifest import Entry, Part
from cairn_tracker.marks import Marks
from cairn_tracker.model import Attempt, JobState, Run, RunState, Summary, is_complete, run_state
from cairn_tracker.native import Labels, encode

NOW = datetime(2026, 1, 1, tzinfo=UTC)
RUN = RunKey("main", "01" + "j" * 24)


def torn(chance: random.Random, data: bytes) -> bytes:
    """A message of which a few bytes are others, gone or too many."""
    made = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        place = chance.randrange(len(made))
        match chance.randrange(3):
            case 0:
                made[place] = chance.randrange(256)
            case 1:
                del made[place : place + chance.randint(1, 3)]
            case 2:
                made[place:place] = chance.randbytes(chance.randint(1, 3))
    return bytes(made)


def test_whatever_columns_a_torn_message_has_their_points_are_kept_or_counted() -> None:
    chance, read = random.Random(5), 0
    good = events_pb2.JobEvent(writer="w", segment=1, end_offset=100, attempt=1)
    good.points_logged.blocks.add(keys=["a", "b"], steps=[1, 2**40, 7], times=[1e9] * 3, values=[1.0] * 6)
    good.points_logged.blocks.add(keys=["c"], steps=range(5), times=[1e9] * 5, values=[math.nan] * 5)
    for _ in range(3_000):
        try:
            message = events_pb2.PointsEvent.FromString(torn(chance, good.SerializeToString()))
        except DecodeError:
            continue
        read += 1
        found = layout.points([Event(RUN, 1e9, message)])
        assert {len(column) for column in (found.step, found.time, found.value, found.metric)} == {len(found)}
        assert np.all((found.step >= 0) & (found.step <= batch.LAST_STEP))
        assert sum(found.rejected.values()) >= 0
    assert read > 200


@pytest.mark.parametrize(
    ("state", "attempts", "expected"),
    [
        (JobState.PENDING, 0, RunState.PENDING),
        (JobState.PENDING, 1, RunState.RECOVERING),
        (JobState.ADMITTED, 0, RunState.PENDING),
        (JobState.LAUNCHING, 1, RunState.PENDING),
        (JobState.LAUNCHING, 2, RunState.RECOVERING),
        (JobState.RUNNING, 1, RunState.RUNNING),
        (JobState.RECOVERING, 1, RunState.RECOVERING),
        (JobState.SUCCEEDED, 2, RunState.SUCCEEDED),
        (JobState.FAILED, 1, RunState.FAILED),
        (JobState.CANCELLED, 0, RunState.CANCELLED),
        (JobState.TIMED_OUT, 1, RunState.TIMED_OUT),
    ],
)
def test_a_runs_state_follows_its_jobs(state: JobState, attempts: int, expected: RunState) -> None:
    assert run_state(state, attempts) is expected


@pytest.mark.parametrize(
    ("state", "drained", "ago", "expected"),
    [
        (RunState.RUNNING, (True,), 600, False),
        (RunState.SUCCEEDED, (False, True), 0, True),
        (RunState.SUCCEEDED, (True, False), 0, False),
        (RunState.SUCCEEDED, (True, False), 60, True),
        (RunState.CANCELLED, (), 0, True),
    ],
)
def test_a_run_is_complete_once_its_last_attempt_has_said_all(
    state: RunState, drained: tuple[bool, ...], ago: int, expected: bool
) -> None:
    attempts = [Attempt(number=place + 1, drained=said) for place, said in enumerate(drained)]
    assert is_complete(state, attempts, NOW - timedelta(seconds=ago), NOW) is expected


def run(**fields: object) -> Run:
    made = Run(
        team="main",
        uid="u",
        display_name="",
        create_time=NOW,
        update_time=NOW,
        state=RunState.RUNNING,
        revision=1,
        start_time=NOW - timedelta(seconds=5),
    )
    return replace(made, **fields)  # type: ignore[arg-type]


def test_a_comparison_shows_what_differs_and_the_best_in_the_right_direction() -> None:
    of = Summary(last=2.0, last_step=9, count=9, min=1.0, min_step=3, max=4.0, max_step=7)
    nothing = Summary(last=math.nan, last_step=0, count=1)
    runs = [
        run(params={"lr": 0.1, "same": [1]}, summary={"val_LOSS": of, "acc": of, "wer": of, "x": nothing}),
        run(params={"lr": 0.1, "same": [1], "more": None}, end_time=NOW - timedelta(seconds=3),
            state=RunState.FAILED),
    ]  # fmt: skip
    table = compare.compare(runs, metrics=[], minimize=["wer"], all_params=False, now=NOW)
    assert table.param_keys == ["more"]
    assert [dict(row.params) for row in table.rows] == [{}, {"more": None}]
    assert table.metric_keys == ["acc", "val_LOSS", "wer", "x"]
    metrics = table.rows[0].metrics
    assert {key: (item.best, item.best_step) for key, item in metrics.items() if key != "x"} == {
        "acc": (4.0, 7),
        "val_LOSS": (1.0, 3),
        "wer": (1.0, 3),
    }
    assert math.isnan(metrics["x"].best)
    assert [row.duration for row in table.rows] == [5.0, 2.0]
    every = compare.compare(runs, metrics=["acc"], minimize=[], all_params=True, now=NOW)
    assert every.param_keys == ["lr", "more", "same"]
    assert every.metric_keys == ["acc"]


ranges = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 20)), max_size=30)


@given(ranges)
def test_a_range_is_new_exactly_while_some_byte_of_it_is(asked: list[tuple[int, int]]) -> None:
    marks: Marks[str] = Marks()
    seen: set[int] = set()
    for start, length in asked:
        wanted = set(range(start, start + length))
        assert marks.claim("w", start, start + length) is (not wanted or not wanted <= seen)
        seen |= wanted


def event(
    steps: list[int],
    values: list[float],
    *,
    keys: tuple[str, ...] = ("loss",),
    attempt: int = 1,
    time: float = 10.0,
    start: int = 0,
) -> Event:
    message = events_pb2.JobEvent(
        team=RUN.team, run_uid=RUN.uid, writer="w", segment=1, start_offset=start, attempt=attempt
    )
    message.points_logged.blocks.add(keys=keys, steps=steps, times=[time] * len(steps), values=values)
    return Event(RUN, 99.0, message)


def test_a_bad_key_or_step_costs_that_column_or_row_alone() -> None:
    found = layout.points(
        [
            event([1, -1, 2], [1, 2, 3, 4, 5, 6], keys=("a", "new\nline")),
            event([1], [1.0, 2.0]),
            event([2**53, 5], [1.0, 2.0], keys=("k" * 250,)),
            event([7], [1.0], keys=("k" * 251,)),
            event([7], [1.0], keys=("",), time=math.nan),
        ]
    )
    keys = [found.metrics[metric].key[0] for metric in found.metric]
    assert list(zip(keys, found.step, strict=True)) == [("a", 1), ("a", 2), ("k", 5)]
    assert list(found.value) == [1.0, 5.0, 2.0]
    assert list(found.cell) == [0, 4, 1]
    assert found.rejected == {RUN: 4 + 2 + 1 + 1 + 1}


logged = st.lists(
    st.tuples(
        st.integers(1, 3),
        st.lists(
            st.tuples(st.integers(0, 12), st.floats(width=32, allow_nan=True, allow_infinity=True)),
            min_size=1,
            max_size=6,
        ),
    ),
    min_size=1,
    max_size=12,
)


@given(logged, st.integers(1, 5))
def test_summaries_added_batch_by_batch_are_those_of_the_values_that_show(
    events: list[tuple[int, list[tuple[int, float]]]], size: int
) -> None:
    made = [
        event([step for step, _ in rows], [value for _, value in rows], attempt=attempt, start=place)
        for place, (attempt, rows) in enumerate(events)
    ]
    key = MetricKey(*RUN, "loss")
    known: dict[MetricKey, Summary] = {}
    for start in range(0, len(made), size):
        change = summary.change(layout.points(made[start : start + size]), known)
        known |= change.added
        if change.revisited:
            # What the database would answer: a look at everything so far.
            known[key] = whole(layout.points(made[: start + size]))
    assert_same(known[key], brute_force(events))


@pytest.mark.parametrize(
    ("first", "steps", "count", "last_step"),
    [(5, 10, 15, 14), (0, 4, 10, 9), (9, 1, 10, 9), (10, 3, 13, 12), (0, 100, 100, 99)],
)
def test_a_summary_that_cannot_be_asked_for_is_estimated(
    first: int, steps: int, count: int, last_step: int
) -> None:
    def of(first: int, steps: int) -> Summary:
        rows = list(range(first, first + steps))
        made = event(rows, [float(step) for step in rows], attempt=1, start=0)
        return whole(layout.points([made]))

    estimated = summary.estimate(of(0, 10), of(first, steps))
    assert (estimated.count, estimated.last_step, estimated.last) == (count, last_step, float(last_step))
    assert (estimated.min, estimated.max) == (0.0, float(last_step))


def whole(points: batch.Points) -> Summary:
    """What points of one metric come to, all of them known."""
    return summary.change(points, {}).added[MetricKey(*RUN, "loss")]


def brute_force(events: list[tuple[int, list[tuple[int, float]]]]) -> Summary:
    shown: dict[int, tuple[tuple[int, int, int], float]] = {}
    for place, (attempt, rows) in enumerate(events):
        for cell, (step, value) in enumerate(rows):
            order = (attempt, place, cell)
            if step not in shown or shown[step][0] < order:
                shown[step] = (order, value)
    values = {step: value for step, (_, value) in sorted(shown.items())}
    finite = [(value, step) for step, value in values.items() if math.isfinite(value)]
    last = max(values)
    least = min(finite, default=(None, 0))
    most = max(finite, key=lambda item: (item[0], -item[1]), default=(None, 0))
    return Summary(
        last=values[last],
        last_step=last,
        count=len(values),
        min=least[0],
        min_step=least[1],
        max=most[0],
        max_step=most[1],
    )


def assert_same(found: Summary, expected: Summary) -> None:
    assert np.array_equal([found.last], [expected.last], equal_nan=True)
    assert replace(found, last=0.0) == replace(expected, last=0.0)


@given(st.integers(1, 50), st.integers(0, 1000), st.integers(0, 1000), st.integers(1, 40))
def test_there_are_never_more_buckets_than_asked_for(steps: int, low: int, spread: int, most: int) -> None:
    extent = Extent("r", "k", steps, low, low + max(spread, steps - 1))
    buckets = {(step - low) // width(extent, most) for step in range(extent.low, extent.high + 1)}
    assert len(buckets) <= most or extent.steps <= most


@pytest.mark.parametrize(
    "path",
    ["", "/etc/passwd", "../x", "a/../b", "a//b", "./a", "a/", "a/.", "a\\b", "a\x00b", "a\nb", "x" * 1025],
)
def test_paths_that_lead_elsewhere_are_refused(path: str) -> None:
    with pytest.raises(InvalidArgument):
        manifest.check_path(path)


@pytest.mark.parametrize("path", ["a", "a/b.txt", "..a", "a..b/c", ".hidden", "ünï", "a b", "x" * 1024])
def test_plain_paths_are_taken(path: str) -> None:
    manifest.check_path(path)


def file(path: str, data: bytes = b"x") -> Entry:
    name = hashlib.sha256(data).hexdigest()
    return Entry(path, len(data), name, [Part(name, len(data))] if data else [])


@pytest.mark.parametrize(
    "entries",
    [
        [],
        [file("a"), file("a")],
        [file("a"), file("a/b")],
        [replace(file("a"), size=2)],
        [replace(file("a"), digest="0" * 64)],
        [replace(file("a"), digest="A" * 64)],
        [replace(file("a"), parts=[])],
        [replace(file("a", b""), digest="0" * 64)],
        [replace(file("a"), parts=[Part(file("a").digest, 17 << 20)], size=17 << 20)],
    ],
)
def test_entries_that_do_not_add_up_are_refused(entries: list[Entry]) -> None:
    with pytest.raises(InvalidArgument):
        manifest.check(entries)


def test_a_versions_digest_is_that_of_its_contents_in_any_order() -> None:
    one, two = file("a"), file("b/c", b"")
    manifest.check([one, two])
    assert manifest.digest([one, two]) == manifest.digest([two, one])
    assert manifest.digest([one, two]) != manifest.digest([one])


@pytest.mark.parametrize(
    ("text", "number"), [("3", 3), ("v3", 3), ("latest", None), ("v0", None), ("3v", None), ("v", None)]
)
def test_a_version_is_named_by_number_or_alias(text: str, number: int | None) -> None:
    assert manifest.version_number(text) == number


@pytest.mark.parametrize(
    ("text", "expected"),
    [("digits", "digits"), ("My digits!", "my-digits"), ("42", "default"), ("-x-", "x"), ("9a", "a")],
)
def test_an_experiment_has_an_id_however_it_is_called(text: str, expected: str) -> None:
    assert experiment_id(text) == expected


def test_columns_of_unequal_length_are_refused() -> None:
    with pytest.raises(ValueError, match="unequal"):
        encode({"a": np.zeros(2), "b": Labels(["x"], np.zeros(3, np.int64))})

"""JSON and protobuf: there and back, and nothing dropped on the way."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from cairn.scheduler.v1 import job_pb2, scheduler_pb2
from cairn.tracker.v1 import artifact_pb2, metric_pb2, run_pb2, tracker_pb2
from cairn_common.errors import InvalidArgument
from cairn_gateway import wire

TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
INT64 = st.integers(-(2**63), 2**63 - 1)
# One NaN: JSON does not carry which of them it was.
DOUBLE = st.floats(allow_nan=False) | st.just(math.nan)
PLAIN = st.recursive(
    st.none() | st.booleans() | TEXT | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


@st.composite
def runs(draw: st.DrawFn) -> run_pb2.Run:
    """Runs with every kind of field in them."""
    run = run_pb2.Run(
        name=draw(TEXT),
        state=draw(st.sampled_from([item.number for item in run_pb2.Run.State.DESCRIPTOR.values])),
        revision=draw(INT64),
        tags=draw(st.lists(TEXT, max_size=3)),
        environment=draw(st.dictionaries(TEXT, TEXT, max_size=3)),
        complete=draw(st.booleans()),
    )
    run.params.update(draw(st.dictionaries(TEXT, PLAIN, max_size=3)))
    for key, value in draw(st.dictionaries(TEXT, DOUBLE, max_size=3)).items():
        run.summary[key].last = value
        if draw(st.booleans()):
            run.summary[key].min = value
    for number in range(draw(st.integers(0, 2))):
        attempt = run.attempts.add(number=number)
        if draw(st.booleans()):
            attempt.resumed_step = draw(INT64)
    if draw(st.booleans()):
        run.start_time.FromNanoseconds(draw(st.integers(0, 4 * 10**18)))
    return run


def through(message: Message) -> Message:
    """The message after a journey as JSON text."""
    back = type(message)()
    wire.from_json(back, wire.loads(wire.dumps(wire.to_json(message))))
    return back


@given(runs())
def test_a_run_comes_back_as_it_went(run: run_pb2.Run) -> None:
    # Not `==`: NaN is no NaN's equal, but its bytes are.
    assert through(run).SerializeToString(deterministic=True) == run.SerializeToString(deterministic=True)


@given(st.lists(st.tuples(INT64, DOUBLE), max_size=20))
def test_a_series_comes_back_as_it_went(points: list[tuple[int, float]]) -> None:
    series = metric_pb2.Series(steps=[step for step, _ in points], last=[value for _, value in points])
    assert through(series).SerializeToString() == series.SerializeToString()


def test_the_text_is_json_that_any_parser_takes() -> None:
    series = metric_pb2.Series(steps=[2**62], last=[math.nan, math.inf, -math.inf, 0.5])
    value = json.loads(wire.dumps(wire.to_json(series)), parse_constant=pytest.fail)
    assert value["steps"] == [2**62]
    assert value["last"] == ["NaN", "Infinity", "-Infinity", 0.5]


def test_what_can_be_absent_is_left_out_and_the_rest_is_always_there() -> None:
    value = wire.to_json(job_pb2.Job())
    assert value["state"] == "STATE_UNSPECIFIED"
    assert value["attempts"] == []
    assert value["display_name"] == ""
    assert "spec" not in value
    assert "start_time" not in value


@pytest.mark.parametrize(
    ("kind", "value", "path"),
    [
        (scheduler_pb2.CreateJobRequest, {"tusk": ""}, "tusk"),
        (scheduler_pb2.CreateJobRequest, {"code": {"digits": ""}}, "code.digits"),
        (scheduler_pb2.CreateJobRequest, {"code": {"size": 1.5}}, "code.size"),
        (scheduler_pb2.CreateJobRequest, {"code": {"size": 2**63}}, "code.size"),
        (scheduler_pb2.CreateJobRequest, {"code": {"size": True}}, "code.size"),
        (scheduler_pb2.CreateJobRequest, {"validate_only": "yes"}, "validate_only"),
        (scheduler_pb2.CreateJobRequest, {"task": "\ud800"}, "task"),
        (scheduler_pb2.CreateJobRequest, {"code": []}, "code"),
        (tracker_pb2.CommitVersionRequest, {"kind": "MODEL"}, "kind"),
        (tracker_pb2.CommitVersionRequest, {"entries": [{"path": "a"}, {"pith": "b"}]}, "entries[1].pith"),
        (tracker_pb2.CommitVersionRequest, {"entries": {}}, "entries"),
        (tracker_pb2.CreateRunRequest, {"run": {"create_time": "yesterday"}}, "run.create_time"),
        (tracker_pb2.CreateRunRequest, {"run": {"environment": {"A": 1}}}, "run.environment.A"),
        (tracker_pb2.CreateRunRequest, {"run": {"params": [1]}}, "run.params"),
    ],
)
def test_what_a_message_does_not_have_is_refused_with_its_path(
    kind: type[Message], value: Any, path: str
) -> None:
    with pytest.raises(InvalidArgument) as caught:
        wire.from_json(kind(), value)
    assert caught.value.metadata["path"] == path


@pytest.mark.parametrize(
    "text",
    [
        b"{",
        b"\xff{}",
        b'{"a": NaN}',
        b'{"a": 1, "a": 2}',
        b"[" * 100_000,
        b"[" * 40 + b"]" * 40,
        b'{"a": ' + b"9" * 10_000 + b"}",
        b"{} {}",
    ],
)
def test_text_that_is_no_plain_json_is_refused(text: bytes) -> None:
    with pytest.raises(InvalidArgument):
        wire.loads(text)


def test_fields_of_the_path_cannot_come_in_the_body() -> None:
    with pytest.raises(InvalidArgument):
        wire.from_json(scheduler_pb2.CreateJobRequest(), {"parent": "teams/x"}, without=frozenset({"parent"}))


def test_large_integers_may_be_strings_and_durations_numbers() -> None:
    part = artifact_pb2.ArtifactPart()
    wire.from_json(part, {"size": "9007199254740993"})
    assert part.size == 9007199254740993
    spec = job_pb2.JobSpec()
    wire.from_json(spec, {"grace": 1.5, "max_runtime": "90s"})
    assert (spec.grace.ToMilliseconds(), spec.max_runtime.seconds) == (1500, 90)

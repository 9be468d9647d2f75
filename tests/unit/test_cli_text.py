"""Words, numbers and pictures of the command line."""

from __future__ import annotations

import json
import math

import pytest

from cairn._cli.errors import CliError, tell
from cairn._cli.find import choose
from cairn._cli.plot import Curve, plot
from cairn._cli.records import Record, join, merge
from cairn._cli.summary import dropped_text, lost_text
from cairn._cli.text import (
    ago,
    clean,
    clean_line,
    digits,
    json_text,
    moment,
    number,
    plain,
    short,
    size,
    span,
    sparkline,
)
from cairn._code import CodeError
from cairn._http import ApiError, Unreachable

NASTY = (
    "a\x1b[2J\x1b]8;;http://evil\x1b\\link\x1b]8;;\x1b\\ b\x07\x9b1;1H"
    "\u202ec\x1b[31mred\x1b[0m\nd\x00\x1bPq\x1b\\"
)  # fmt: skip


def test_what_a_server_says_cannot_move_the_cursor() -> None:
    assert clean(NASTY) == "alink bcred d"
    assert clean("\x1b]0;never ended") == ""


def test_json_holds_the_value_and_cannot_steer_a_terminal() -> None:
    value = {"name": "a\x1b]0;t\x07\x9b2J\u202egnp.exe é", "lines": ["b\r\nc\x7f"]}
    for indent in (None, 2):
        text = json_text(value, indent=indent)
        assert json.loads(text) == value
        assert "é" in text
        assert [letter for letter in text if not letter.isprintable() and letter != "\n"] == []


def test_log_lines_keep_colours_only_where_they_are_wanted() -> None:
    line = "\x1b]0;t\x07 10%\r 50%\r\x1b[32m100%\x1b[0m\x1b[1A\r"
    assert clean_line(line, colors=False) == "100%"
    assert clean_line(line, colors=True) == "\x1b[32m100%\x1b[0m\x1b[0m"
    assert clean_line("tab\there", colors=True) == "tab\there"


def test_durations_are_read() -> None:
    assert [ago(text) for text in ("90s", "1.5h", " 10m ", "2d", "10", "m", "-5m", "")] == [
        90, 5400, 600, 172800, None, None, None, None
    ]  # fmt: skip


def test_spans_ages_and_sizes_are_short() -> None:
    assert [span(each) for each in (None, 0, 4.4, 60, 200, 18120, 3 * 86400 + 4 * 3600)] == [
        "-", "0s", "4s", "1m", "3m 20s", "5h 2m", "3d 4h"
    ]  # fmt: skip
    assert [size(each) for each in (0, 1023, 1024, 5 * 2**30)] == ["0 B", "1023 B", "1.0 KiB", "5.0 GiB"]


def test_numbers_as_the_api_writes_them() -> None:
    assert [digits(each) for each in (None, 3, 0.123456, 1e-9, "NaN", "-Infinity", 12.0)] == [
        "-", "3", "0.1235", "1e-09", "nan", "-inf", "12"
    ]  # fmt: skip
    assert number("Infinity") == math.inf
    values = (3e-4, 16.0, True, None, "x\ty\n")
    assert [plain(each) for each in values] == ["0.0003", "16", "true", "null", "x\ty "]
    assert moment("1970-01-01T00:01:00.123456789Z") == 60.123456
    assert moment("soon") is None


def test_a_sparkline_shows_the_course_and_its_gaps() -> None:
    assert sparkline([0, 1, "NaN", 7]) == "▁▂ █"
    assert sparkline([5, 5]) == "▁▁"
    assert sparkline([]) == sparkline(["NaN"]) == ""
    long = sparkline(list(range(1000)), width=10)
    assert (len(long), long[-1]) == (10, "█")


def test_ids_are_as_short_as_they_can_be() -> None:
    uid = "01abcdefghijkmnp0000000000"
    assert short(uid, [uid]) == "01abcdefghij"
    assert short(uid, [uid, "01abcdefghijkmX"]) == "01abcdefghijkmn"
    assert uid.startswith(short(uid, None))


def test_a_plot_draws_each_curve_and_ignores_what_is_not_finite() -> None:
    rows = plot([Curve("a", [(0, 0), (5, math.nan), (10, 1)]), Curve("b", [(5, 0.5)])], width=20, height=5)
    assert len(rows) == 5 + 3
    assert rows[0].plain.startswith("1 │")
    assert rows[-1].plain.split() == ["━", "a", "━", "b"]
    assert plot([Curve("none", [])]) == []


RECORDS = [
    Record(uid="01aaaaaaaaaaaaaaaaaaaaaaaa", name="train", experiment="e", state="RUNNING"),
    Record(uid="01aaaaaaaaaabbbbbbbbbbbbbb", name="train", experiment="e", state="FAILED"),
    Record(uid="01cccccccccccccccccccccccc", name="eval", experiment="e", state="PENDING"),
]


def test_ids_complete_by_their_beginning_or_by_name() -> None:
    assert choose(RECORDS, "01C") == RECORDS[2].uid
    assert choose(RECORDS, "01aaaaaaaaaab") == RECORDS[1].uid
    assert choose(RECORDS, "eval") == RECORDS[2].uid
    for ambiguous in ("01aaaa", "train"):
        with pytest.raises(CliError, match="any of 2") as refused:
            choose(RECORDS, ambiguous)
        assert RECORDS[0].uid in str(refused.value)
        assert refused.value.told.code == 2
    with pytest.raises(CliError) as missing:
        choose(RECORDS, "zzz")
    assert missing.value.told.code == 3


def test_a_job_and_its_run_are_one_record() -> None:
    job = {
        "uid": "01a", "state": "LAUNCHING", "create_time": "2026-01-01T00:00:00Z", "reason": "",
        "experiment": "teams/main/experiments/e", "attempts": [{}, {}], "spec": {"params": {"lr": "0.1"}},
    }  # fmt: skip
    run = {"uid": "01a", "state": "PENDING", "display_name": "n", "summary": {"loss": {"last": "NaN"}}}
    other = {"uid": "01b", "state": "RUNNING", "create_time": "2026-01-02T00:00:00Z", "message": "x\nlines"}
    newest, both = join([job], [run, other])
    assert (newest.uid, newest.note) == ("01b", "x")
    assert (both.state, both.name, both.experiment, both.attempts) == ("LAUNCHING", "n", "e", 2)
    assert (both.params, math.isnan(both.metrics["loss"])) == ({"lr": "0.1"}, True)
    assert merge(None, {"uid": "01c"}).state == "PENDING"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ApiError(status=400, reason="TASK_INVALID", detail="x"), 2),
        (ApiError(status=401, reason="TOKEN_EXPIRED", detail="x"), 4),
        (ApiError(status=403, reason="ROLE_TOO_LOW", detail="x"), 4),
        (ApiError(status=404, reason="JOB_NOT_FOUND", detail="x"), 3),
        (ApiError(status=409, reason="JOB_ENDED", detail="x"), 1),
        (ApiError(status=429, reason="QUOTA_EXCEEDED", detail="x"), 1),
        (ApiError(status=503, reason="UNAVAILABLE", detail="x"), 5),
        (Unreachable("http://h", ConnectionRefusedError(111, "Connection refused")), 5),
        (CodeError("x"), 2),
        (PermissionError(13, "Permission denied", "/x"), 1),
        (RuntimeError("what"), 1),
    ],
)
def test_each_error_has_its_exit_code(error: Exception, code: int) -> None:
    told = tell(error)
    assert told.code == code
    assert told.message


def test_missing_points_are_told_of_where_there_are_any() -> None:
    assert lost_text({"summary": {}, "rejected_points": "0"}) is None
    told = str(lost_text({"rejected_points": "4", "dropped_points": "12000"}))
    assert told.splitlines()[0].startswith("  4 points were refused")
    assert told.splitlines()[1].startswith("  12,000 points were lost where they were logged")


def test_what_a_rule_let_go_of_is_told_with_its_day() -> None:
    assert dropped_text({"summary": {}}) is None
    told = str(dropped_text({"points_drop_time": "2026-01-31T12:00:00Z"}))
    assert told.startswith("  raw points were dropped on 2026-01-31 by the team's rule")

"""How an attempt ended, read from its evidence, and whether another try follows."""

from __future__ import annotations

from datetime import timedelta

import pytest

from cairn_scheduler.causes import RETRIED, Evidence, backoff, classify
from cairn_scheduler.model import Cause


@pytest.mark.parametrize(
    ("evidence", "asked", "cause", "told"),
    [
        (Evidence(exit_code=0), None, None, ""),
        (Evidence(exit_code=0), Cause.CANCELLED, None, ""),
        (
            Evidence(exit_code=1, last_lines=("Traceback", "ValueError: x")),
            None,
            Cause.USER_ERROR,
            "ValueError",
        ),
        (Evidence(exit_code=1, phase="setup"), None, Cause.USER_ERROR, "`setup`"),
        (Evidence(exit_code=127, last_lines=("pyton: not found",)), None, Cause.USER_ERROR, "not found"),
        (Evidence(exit_code=126), None, Cause.USER_ERROR, "cannot be executed"),
        (Evidence(signal=9), None, Cause.INFRA, "SIGKILL"),
        (Evidence(exit_code=137), None, Cause.INFRA, "SIGKILL"),
        (Evidence(signal=7), None, Cause.INFRA, "SIGBUS"),
        (Evidence(signal=15), None, Cause.INFRA, "SIGTERM"),
        (Evidence(signal=9, oom=True), None, Cause.OOM, "memory"),
        (Evidence(signal=11), None, Cause.USER_ERROR, "SIGSEGV"),
        (Evidence(exit_code=139), None, Cause.USER_ERROR, "SIGSEGV"),
        (Evidence(signal=6), None, Cause.USER_ERROR, "SIGABRT"),
        (Evidence(exit_code=255), None, Cause.USER_ERROR, "255"),
        (Evidence(signal=9, timed_out=True), None, Cause.TIMEOUT, "max_runtime"),
        (Evidence(signal=15, stopped=True), Cause.CANCELLED, Cause.CANCELLED, "on request"),
        (Evidence(exit_code=0, stopped=True), Cause.CANCELLED, Cause.CANCELLED, "on request"),
        (Evidence(signal=15, stopped=True), Cause.TIMEOUT, Cause.TIMEOUT, "max_runtime"),
        (Evidence(signal=15, stopped=True), None, Cause.INFRA, "not by Cairn"),
        (Evidence(lost=True), None, Cause.LOST, "without a report"),
        (Evidence(lost=True), Cause.CANCELLED, Cause.CANCELLED, "on request"),
        (Evidence(phase="code", message="no answer"), None, Cause.INFRA, "no answer"),
        (Evidence(message="disk full"), None, Cause.INFRA, "disk full"),
    ],
)
def test_the_cause_follows_from_the_evidence(
    evidence: Evidence, asked: Cause | None, cause: Cause | None, told: str
) -> None:
    ending = classify(evidence, asked=asked)
    assert ending.cause is cause
    assert told in ending.message


def test_a_message_stays_short_whatever_the_last_lines_are() -> None:
    ending = classify(Evidence(exit_code=1, last_lines=("é" * 60_000,) * 20), asked=None)
    assert len(ending.message.encode()) < 5000


@pytest.mark.parametrize("cause", list(Cause))
def test_only_what_a_retry_can_help_is_tried_again_and_ever_later(cause: Cause) -> None:
    waits = [backoff(cause, failures=count, max_retries=10) for count in range(1, 12)]
    if cause not in RETRIED:
        assert waits == [None] * 11
        return
    assert waits[-1] is None, "after max_retries there is none"
    known = [wait for wait in waits if wait is not None]
    assert known[0] == timedelta(seconds=1)
    assert known == sorted(known)
    assert known[-1] <= timedelta(minutes=5)


def test_what_ended_well_is_not_tried_again() -> None:
    assert backoff(None, failures=1, max_retries=3) is None

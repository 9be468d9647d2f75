"""Why an attempt ended, read from its evidence, and whether another try can help. Pure."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cairn_scheduler.model import Cause, Ending


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the runner wrote at the end (end.json), or that it is gone without a word (`lost`).

    Times in seconds since 1970; `exit_code` None: no process of the job ever ended by itself.
    """

    exit_code: int | None = None
    signal: int = 0
    rank: int = 0
    phase: str = "run"
    oom: bool = False
    timed_out: bool = False
    stopped: bool = False
    lost: bool = False
    # The place says that it never runs this; that it has no room for it just now.
    refused: bool = False
    full: bool = False
    message: str = ""
    start_time: float | None = None
    end_time: float = 0.0
    last_lines: tuple[str, ...] = ()


# Raised by a program's own fault (or its own choice); all other signals come from outside.
OWN_SIGNALS = frozenset(
    {
        signal.SIGSEGV,
        signal.SIGABRT,
        signal.SIGFPE,
        signal.SIGILL,
        signal.SIGSYS,
        signal.SIGPIPE,
        signal.SIGTRAP,
        signal.SIGALRM,
        signal.SIGXCPU,
        signal.SIGXFSZ,
    }
)
RETRIED = frozenset({Cause.INFRA, Cause.SPOT, Cause.PREEMPTED, Cause.LOST})
LONGEST_BACKOFF = timedelta(minutes=5)
_FIRST_REJECTION = 30.0
_MOST_REJECTIONS = 300
_MESSAGE_BYTES = 4096
_LINES = 10


def classify(evidence: Evidence, *, asked: Cause | None) -> Ending:
    """Reads how an attempt ended. `asked` is why the scheduler itself had told it to stop, if it had."""
    cause, sentence = _cause(evidence, asked)
    return Ending(
        cause=cause,
        message=_with_lines(sentence, evidence) if cause in (Cause.USER_ERROR, Cause.OOM) else sentence,
        exit_code=evidence.exit_code,
        signal=killed_by(evidence) or 0,
        start_time=_moment(evidence.start_time),
        end_time=_moment(evidence.end_time) or datetime.fromtimestamp(0, UTC),
        no_capacity=evidence.full and cause is Cause.INFRA,
    )


def backoff(cause: Cause | None, *, failures: int, max_retries: int) -> timedelta | None:
    """How long to wait before the next attempt; None: no other attempt.

    `failures` counts the attempts that ended so far: 1 s after the first, then twice as long each time.
    """
    if cause not in RETRIED or failures > max_retries:
        return None
    return min(timedelta(seconds=2 ** min(failures - 1, 20)), LONGEST_BACKOFF)


def wait_for_room(rejections: int) -> timedelta | None:
    """How long to wait where there was no room; None: it was asked for often enough."""
    if rejections > _MOST_REJECTIONS:
        return None
    return min(timedelta(seconds=_FIRST_REJECTION * 2.0 ** min(rejections - 1, 20)), LONGEST_BACKOFF)


def killed_by(evidence: Evidence) -> int | None:
    """The signal that ended the first failing rank; bash tells of its child's as 128 + n."""
    if evidence.signal:
        return evidence.signal
    if evidence.exit_code is not None and 128 < evidence.exit_code <= 128 + signal.SIGRTMAX:
        return evidence.exit_code - 128
    return None


def _cause(evidence: Evidence, asked: Cause | None) -> tuple[Cause | None, str]:
    if evidence.lost and asked is None:
        told = "The runner is gone without a report; what it had started was ended."
        return Cause.LOST, f"{told} Its last words: {evidence.message}" if evidence.message else told
    if evidence.timed_out:
        return Cause.TIMEOUT, evidence.message or "It ran for longer than its max_runtime."
    if evidence.exit_code == 0 and not evidence.stopped and evidence.phase == "run":
        return None, ""
    if evidence.stopped or asked is not None:
        return _stopped(evidence, asked)
    if evidence.refused:
        return Cause.USER_ERROR, f"It cannot run there: {evidence.message}"
    if evidence.full:
        return Cause.INFRA, f"No capacity: {evidence.message}"
    if evidence.oom:
        return Cause.OOM, (
            f"Rank {evidence.rank} was ended by the kernel's out-of-memory killer. "
            "Ask for more memory, or use smaller batches."
        )
    if evidence.phase == "code":
        return Cause.INFRA, f"The code could not be fetched: {evidence.message or 'no reason given'}"
    return _failed(evidence)


def _stopped(evidence: Evidence, asked: Cause | None) -> tuple[Cause, str]:
    if asked is Cause.TIMEOUT:
        return asked, "It ran for longer than its max_runtime."
    if asked is not None:
        return asked, "It was stopped on request."
    return Cause.INFRA, "The runner was told to stop, but not by Cairn."


def _failed(evidence: Evidence) -> tuple[Cause, str]:
    number = killed_by(evidence)
    if number is not None:
        name = _signal_name(number)
        if number in OWN_SIGNALS:
            return Cause.USER_ERROR, f"`{evidence.phase}` crashed in rank {evidence.rank}: {name}."
        return Cause.INFRA, f"Rank {evidence.rank} was killed from outside in `{evidence.phase}`: {name}."
    if evidence.exit_code is None:
        return Cause.INFRA, evidence.message or "The runner could not start the command."
    where = f"`{evidence.phase}` ended with exit code {evidence.exit_code} in rank {evidence.rank}"
    if evidence.exit_code == 127:
        return Cause.USER_ERROR, f"{where}: command not found. Check its spelling, PATH, and `setup`."
    if evidence.exit_code == 126:
        return Cause.USER_ERROR, f"{where}: the command was found but cannot be executed."
    return Cause.USER_ERROR, f"{where}."


def _with_lines(sentence: str, evidence: Evidence) -> str:
    lines = [line.rstrip() for line in evidence.last_lines if line.strip()][-_LINES:]
    if not lines:
        return sentence
    text = sentence + " Last lines:\n" + "\n".join(lines)
    raw = text.encode()
    if len(raw) <= _MESSAGE_BYTES:
        return text
    head = sentence.encode() + b" Last lines:\n..."
    return (head + raw[-(_MESSAGE_BYTES - len(head)) :]).decode(errors="replace")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _moment(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)

"""A job's life as one list of moments: what happened when, why, and how long it took. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from cairn_scheduler.model import Attempt, AttemptState, Cause, Job, State

_LAST = "Last lines:"


class Kind(StrEnum):
    """As Moment.Kind on the wire."""

    SUBMITTED = "SUBMITTED"
    WAITING = "WAITING"
    HELD = "HELD"
    ADMITTED = "ADMITTED"
    LAUNCHING = "LAUNCHING"
    PROVISIONING = "PROVISIONING"
    RUNNING = "RUNNING"
    PREEMPTING = "PREEMPTING"
    ATTEMPT_ENDED = "ATTEMPT_ENDED"
    RECOVERING = "RECOVERING"
    STOPPING = "STOPPING"
    FINISHED = "FINISHED"


@dataclass(frozen=True, slots=True)
class Moment:
    """One of them. `end_time`: when a state that lasts was over."""

    kind: Kind
    time: datetime
    attempt: int = 0
    text: str = ""
    cause: Cause | None = None
    state: State | None = None
    last_lines: tuple[str, ...] = ()
    end_time: datetime | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """What the database remembers of a job's states: see migrations/0017_history.sql."""

    time: datetime
    state: str
    text: str


@dataclass(frozen=True, slots=True)
class Step:
    """What the place said on the way to an attempt's machines."""

    attempt_uid: str
    number: int
    time: datetime
    text: str


_REMEMBERED = {
    "PENDING": Kind.WAITING,
    "HELD": Kind.HELD,
    "ADMITTED": Kind.ADMITTED,
    "PREEMPTING": Kind.PREEMPTING,
    "RECOVERING": Kind.RECOVERING,
    "STOPPING": Kind.STOPPING,
}
# What lasts until the next of these, or until an end.
_LASTING = (
    Kind.WAITING, Kind.HELD, Kind.ADMITTED, Kind.LAUNCHING, Kind.RUNNING, Kind.PREEMPTING, Kind.RECOVERING,
)  # fmt: skip
_ENDS = (Kind.ATTEMPT_ENDED, Kind.FINISHED)
# What happened in one and the same instant, in the order of causes.
_ORDER = (
    Kind.SUBMITTED, Kind.STOPPING, Kind.PREEMPTING, Kind.ATTEMPT_ENDED, Kind.RECOVERING, Kind.WAITING,
    Kind.HELD, Kind.ADMITTED, Kind.LAUNCHING, Kind.PROVISIONING, Kind.RUNNING, Kind.FINISHED,
)  # fmt: skip


def timeline(job: Job, history: Sequence[Entry], steps: Sequence[Step]) -> list[Moment]:
    """All of it, oldest first."""
    moments = [Moment(Kind.SUBMITTED, job.create_time, text=_by(job.creator)), *_remembered(history)]
    if job.state is State.PENDING and job.reason and not any(m.kind is Kind.WAITING for m in moments):
        moments.append(Moment(Kind.WAITING, job.create_time, text=job.reason))
    if job.cancel_time is not None and not any(m.kind is Kind.STOPPING for m in moments):
        moments.append(Moment(Kind.STOPPING, job.cancel_time))
    said = {
        attempt.uid: [step for step in steps if step.attempt_uid == attempt.uid] for attempt in job.attempts
    }
    for attempt in job.attempts:
        moments += _attempt(attempt, said[attempt.uid])
    if job.end_time is not None:
        text = "" if job.attempts else job.message
        moments.append(Moment(Kind.FINISHED, job.end_time, text=text, cause=job.cause, state=job.state))
    moments.sort(key=lambda moment: (moment.time, _ORDER.index(moment.kind)))
    return _with_ends(moments)


def _remembered(history: Sequence[Entry]) -> Iterator[Moment]:
    for entry in history:
        if (kind := _REMEMBERED.get(entry.state)) is not None:
            yield Moment(kind, entry.time, text=entry.text)


def _attempt(attempt: Attempt, steps: Sequence[Step]) -> Iterator[Moment]:
    number = attempt.number
    yield Moment(Kind.LAUNCHING, attempt.create_time, number, f"on {attempt.cluster}")
    for step in steps:
        # Before the end, whatever the clock of the place says.
        time = min(max(step.time, attempt.create_time), attempt.end_time or step.time)
        yield Moment(Kind.PROVISIONING, time, number, step.text)
    if attempt.start_time is not None:
        count = len(attempt.pids)
        yield Moment(Kind.RUNNING, attempt.start_time, number, f"{count} ranks" if count > 1 else "")
    if attempt.end_time is not None:
        headline, lines = _message(attempt.message)
        text = " ".join(filter(None, (headline, _evidence(attempt))))
        yield Moment(
            Kind.ATTEMPT_ENDED, attempt.end_time, number, text,
            cause=attempt.cause, state=_STATES[attempt.state], last_lines=lines,
        )  # fmt: skip


_STATES: Mapping[AttemptState, State] = {
    AttemptState.LAUNCHING: State.LAUNCHING,
    AttemptState.RUNNING: State.RUNNING,
    AttemptState.SUCCEEDED: State.SUCCEEDED,
    AttemptState.FAILED: State.FAILED,
    AttemptState.CANCELLED: State.CANCELLED,
}


def _evidence(attempt: Attempt) -> str:
    """Exit code and signal, where the sentence does not say them already; a stop speaks for itself."""
    if attempt.state is AttemptState.CANCELLED:
        return ""
    sentence, words = attempt.message.partition("\n")[0], []
    if attempt.exit_code is not None and "exit code" not in sentence and not attempt.signal:
        words.append(f"exit code {attempt.exit_code}")
    if attempt.signal and "SIG" not in sentence:
        words.append(f"signal {attempt.signal}")
    return f"({', '.join(words)})" if words else ""


def _message(message: str) -> tuple[str, tuple[str, ...]]:
    """The sentence, and the command's last lines below it."""
    head, *lines = message.split("\n")
    return head.removesuffix(_LAST).rstrip(), tuple(line for line in lines if line.strip())


def _with_ends(moments: Sequence[Moment]) -> list[Moment]:
    """Each state that lasts with the time of what came after it."""
    found: list[Moment] = []
    after: datetime | None = None
    for moment in reversed(moments):
        if moment.kind in _LASTING:
            found.append(replace(moment, end_time=after))
            after = moment.time
        else:
            found.append(moment)
            if moment.kind in _ENDS:
                after = moment.time
    return found[::-1]


def _by(creator: str) -> str:
    return f"by {creator.rpartition('/')[2]}" if creator else ""

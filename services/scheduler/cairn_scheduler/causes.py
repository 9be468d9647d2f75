"""Why an attempt ended, read from its evidence, and whether another try can help. Pure."""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from cairn_scheduler import symptoms
from cairn_scheduler.model import Attempt, Cause, Ending, Spec
from cairn_scheduler.symptoms import Symptom


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the runner wrote at the end (end.json), or that it is gone without a word (`lost`).

    Times in seconds since 1970; `exit_code` None: no process of the job ever ended by itself. The fields
    from `ranks` on are for attempts of several ranks and for clusters elsewhere; each may stay as it is.
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
    # How many ranks there were, and how the others ended that ended badly, in their order of ending.
    ranks: int = 1
    others: tuple[Evidence, ...] = ()
    # It ended after the runner had begun to end all ranks, so perhaps because of that.
    asked: bool = False
    # Kills by the kernel's out-of-memory killer where it ran, while it ran (also of its children).
    oom_kills: int = 0
    # The most memory that its processes held together, and what there was for them. Bytes; 0: not known.
    memory_peak: int = 0
    memory_limit: int = 0
    # Who took its place away, as the cluster tells: SPOT or PREEMPTED.
    taken: Cause | None = None
    # Of one that is lost: when it was last heard from.
    last_seen: float | None = None
    # Another try would meet the same.
    hopeless: bool = False


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
# After an attempt that ran for this long the back-off begins anew.
LONG_ATTEMPT = timedelta(minutes=10)
_WITH_LINES = frozenset({Cause.USER_ERROR, Cause.OOM, Cause.INFRA})
# Nobody sends these to himself: what was printed before does not explain them.
_FROM_OUTSIDE = frozenset({signal.SIGKILL, signal.SIGTERM})
_MESSAGE_BYTES = 4096
_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_LINES = 10


def classify(evidence: Evidence, *, asked: Cause | None) -> Ending:
    """Reads how an attempt ended. `asked` is why the scheduler itself had told it to stop, if it had."""
    evidence = first(evidence)
    cause, sentence, hopeless = _cause(evidence, asked)
    return Ending(
        cause=cause,
        message=_with_lines(clean(sentence), evidence) if cause in _WITH_LINES else clean(sentence),
        exit_code=evidence.exit_code,
        signal=killed_by(evidence) or 0,
        start_time=_moment(evidence.start_time),
        end_time=_moment(evidence.end_time) or datetime.fromtimestamp(0, UTC),
        no_capacity=evidence.full and cause is Cause.INFRA,
        hopeless=hopeless,
    )


def within(ending: Ending, *, begun: datetime, now: datetime) -> Ending:
    """The same with times that are possible: a node's clock may be wrong, and was never asked."""
    end = min(max(ending.end_time, begun), now)
    start = None if ending.start_time is None else min(max(ending.start_time, begun), end)
    return replace(ending, start_time=start, end_time=end)


def first(evidence: Evidence) -> Evidence:
    """The rank whose end began it all, as the evidence of the attempt.

    That is the first that ended badly; but one that only missed its peers gives way to one with a reason of
    its own, even if that took longer to end.
    """
    if not evidence.others or evidence.timed_out or evidence.stopped or evidence.lost:
        return evidence
    found = [evidence, *evidence.others]
    own = [one for one in found if not _echoes(one, evidence.ranks)]
    chosen = next((one for one in own if not one.asked or _symptom(one, evidence.ranks)), evidence)
    if chosen is evidence:
        return evidence
    return replace(
        chosen, phase=evidence.phase, ranks=evidence.ranks, others=(), start_time=evidence.start_time,
        end_time=evidence.end_time, oom_kills=evidence.oom_kills, memory_peak=evidence.memory_peak,
        memory_limit=evidence.memory_limit,
    )  # fmt: skip


def retry_after(ending: Ending, *, spec: Spec, attempts: Sequence[Attempt]) -> timedelta | None:
    """How long to wait before the next attempt; None: no other attempt.

    `attempts` are those before the one that ended now. `spec.retries` gives a cause an allowance of its own;
    all other causes that a retry can help share `spec.max_retries`.
    """
    cause = ending.cause
    if cause is None or ending.hopeless:
        return None
    if cause in spec.retries:
        used, most = sum(attempt.cause is cause for attempt in attempts), spec.retries[cause]
    elif cause in RETRIED:
        used = sum(attempt.cause not in spec.retries for attempt in attempts)
        most = spec.max_retries
    else:
        return None
    return None if used >= most else pause(1 + _short_ones(ending, attempts))


def backoff(cause: Cause | None, *, failures: int, max_retries: int) -> timedelta | None:
    """As `retry_after`, where there is one allowance for all causes and no attempt lived long."""
    return None if cause not in RETRIED or failures > max_retries else pause(failures)


def pause(failures: int) -> timedelta:
    """1 s after the first failure, then twice as long each time, to five minutes."""
    return min(timedelta(seconds=2 ** min(failures - 1, 20)), LONGEST_BACKOFF)


def wait_for_room(rejections: int) -> timedelta | None:
    """How long to wait where there was no room; None: it was asked for often enough."""
    if rejections > _MOST_REJECTIONS:
        return None
    return min(timedelta(seconds=_FIRST_REJECTION * 2.0 ** min(rejections - 1, 20)), LONGEST_BACKOFF)


def _short_ones(ending: Ending, attempts: Sequence[Attempt]) -> int:
    """How many attempts just before failed early, this one included: after a long one it starts anew."""
    if ending.start_time is not None and ending.end_time - ending.start_time >= LONG_ATTEMPT:
        return 0
    count = 0
    for attempt in reversed(attempts):
        if attempt.start_time and attempt.end_time and attempt.end_time - attempt.start_time >= LONG_ATTEMPT:
            break
        count += 1
    return count


def killed_by(evidence: Evidence) -> int | None:
    """The signal that ended the first failing rank; bash tells of its child's as 128 + n."""
    if evidence.signal:
        return evidence.signal
    if evidence.exit_code is not None and 128 < evidence.exit_code <= 128 + signal.SIGRTMAX:
        return evidence.exit_code - 128
    return None


def _cause(evidence: Evidence, asked: Cause | None) -> tuple[Cause | None, str, bool]:
    """The cause, a sentence for people, and whether another try would meet the same."""
    if evidence.lost and asked is None:
        return *_gone(evidence), False
    if evidence.timed_out:
        return Cause.TIMEOUT, evidence.message or "It ran for longer than its max_runtime.", False
    if evidence.exit_code == 0 and not evidence.stopped and evidence.phase == "run":
        return None, "", False
    if asked is None and evidence.taken is not None:
        return *_taken(evidence.taken), False
    if evidence.stopped or asked is not None:
        return *_stopped(evidence, asked), False
    if evidence.refused:
        return Cause.USER_ERROR, f"It cannot run there: {evidence.message}", False
    if evidence.full:
        return Cause.INFRA, f"No capacity: {evidence.message}", False
    if evidence.phase == "code":
        told = f"The code could not be fetched: {evidence.message or 'no reason given'}"
        return Cause.INFRA, told, evidence.hopeless
    if evidence.phase == "environment" and not evidence.signal:
        # The runner knows what went wrong; no exit code: it was not the task's fault.
        told = evidence.message or "The environment could not be built."
        return Cause.INFRA if evidence.exit_code is None else Cause.USER_ERROR, told, evidence.hopeless
    symptom = _symptom(evidence, evidence.ranks)
    if evidence.oom or _killed_child(evidence, symptom):
        return Cause.OOM, _out_of_memory(evidence), False
    if symptom is not None and killed_by(evidence) not in _FROM_OUTSIDE:
        return symptom.cause, f"{_where(evidence)}: {_told(symptom)}", symptom.hopeless or evidence.hopeless
    return *_failed(evidence), evidence.hopeless


def _gone(evidence: Evidence) -> tuple[Cause, str]:
    if evidence.taken is not None:
        return _taken(evidence.taken)
    told = "The runner is gone without a report; what it had started was ended."
    if evidence.last_seen is not None:
        told += f" It was last heard from at {datetime.fromtimestamp(evidence.last_seen, UTC):%H:%M:%S} UTC."
    return Cause.LOST, f"{told} Its last words: {evidence.message}" if evidence.message else told


def _taken(cause: Cause) -> tuple[Cause, str]:
    if cause is Cause.SPOT:
        return cause, "The provider took its spot machine back."
    return cause, "Its place was taken for another job."


def _stopped(evidence: Evidence, asked: Cause | None) -> tuple[Cause, str]:
    if asked is Cause.TIMEOUT:
        return asked, "It ran for longer than its max_runtime."
    if asked is Cause.PREEMPTED:
        return asked, "Its place was taken; it goes on from its last checkpoint."
    if asked is Cause.BUDGET:
        return asked, "Its budget is spent; it goes on from its last checkpoint once there is more."
    if asked is not None:
        return asked, "It was stopped on request."
    return Cause.INFRA, "The runner was told to stop, but not by Cairn."


def _out_of_memory(evidence: Evidence) -> str:
    who = f"Rank {evidence.rank}" if evidence.oom else f"A process of rank {evidence.rank}"
    told = f"{who} was ended by the kernel's out-of-memory killer"
    if evidence.memory_peak and evidence.memory_limit:
        told += f"; the job held {_gib(evidence.memory_peak)} of {_gib(evidence.memory_limit)}"
    return f"{told}. Ask for more memory (`resources.memory`), or use smaller batches or fewer workers."


def _killed_child(evidence: Evidence, symptom: Symptom | None) -> bool:
    """The killer took a child of the rank, which then ended by itself, saying so."""
    return evidence.oom_kills > 0 and symptom is not None and symptom.name == "worker_killed"


def _symptom(evidence: Evidence, ranks: int) -> Symptom | None:
    return symptoms.find(evidence.last_lines, ranks=ranks)


def _echoes(evidence: Evidence, ranks: int) -> bool:
    """It ended because of another rank, by what it printed."""
    if evidence.oom or killed_by(evidence) in _FROM_OUTSIDE:
        return False
    symptom = _symptom(evidence, ranks)
    return symptom is not None and symptom.echo


def _told(symptom: Symptom) -> str:
    return symptom.told[0].lower() + symptom.told[1:] if symptom.told[1:2].islower() else symptom.told


def _where(evidence: Evidence) -> str:
    number = killed_by(evidence)
    if number is not None:
        return f"`{evidence.phase}` ended by {_signal_name(number)} in rank {evidence.rank}"
    return f"`{evidence.phase}` ended with exit code {evidence.exit_code} in rank {evidence.rank}"


def _failed(evidence: Evidence) -> tuple[Cause, str]:
    number = killed_by(evidence)
    if number is not None:
        name = _signal_name(number)
        if number in OWN_SIGNALS:
            return Cause.USER_ERROR, f"`{evidence.phase}` crashed in rank {evidence.rank}: {name}."
        return Cause.INFRA, f"Rank {evidence.rank} was killed from outside in `{evidence.phase}`: {name}."
    if evidence.exit_code is None:
        return Cause.INFRA, evidence.message or "The runner could not start the command."
    where = _where(evidence)
    if evidence.exit_code == 127:
        return Cause.USER_ERROR, f"{where}: command not found. Check its spelling, PATH, and `setup`."
    if evidence.exit_code == 126:
        return Cause.USER_ERROR, f"{where}: the command was found but cannot be executed."
    return Cause.USER_ERROR, f"{where}."


def _with_lines(sentence: str, evidence: Evidence) -> str:
    lines = [clean(line).rstrip() for line in evidence.last_lines if line.strip()][-_LINES:]
    if not lines:
        return sentence
    text = sentence + " Last lines:\n" + "\n".join(lines)
    raw = text.encode()
    if len(raw) <= _MESSAGE_BYTES:
        return text
    head = sentence.encode() + b" Last lines:\n..."
    return (head + raw[-(_MESSAGE_BYTES - len(head)) :]).decode(errors="replace")


def clean(text: str) -> str:
    """Without what no database and no terminal takes: programs print anything."""
    return _CONTROL.sub("\ufffd", _ESCAPE.sub("", text))


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"


def _moment(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)

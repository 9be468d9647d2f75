"""What is known of one attempt's ranks, from what their runners said. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from cairn.job.v1 import events_pb2
from cairn_scheduler.causes import Evidence

# Of the ranks that ended badly after the first one, so many are kept.
_MOST_OTHERS = 15


@dataclass(slots=True)
class Ranks:
    """Who began, who ended and how, and whose words are all here."""

    count: int
    start_time: float | None = None
    pids: dict[int, int] = field(default_factory=dict)
    ends: dict[int, Evidence] = field(default_factory=dict)
    shipped: set[int] = field(default_factory=set)
    # When a word of any of them came last (the caller's clock).
    heard: float = 0.0

    def take(self, event: events_pb2.JobEvent, *, now: float) -> None:
        """Notes one word. Words may come twice."""
        self.heard = now
        match event.WhichOneof("event"):
            case "attempt_started":
                told = event.attempt_started
                self.pids[told.rank] = told.pid
                if self.start_time is None:
                    self.start_time = told.start_time
            case "attempt_ended":
                evidence = _evidence(event.attempt_ended)
                self.ends.setdefault(evidence.rank, evidence)
            case "attempt_shipped":
                self.shipped.add(event.attempt_shipped.rank)
            case "attempt_drained":
                # The last word of a runner of an earlier release.
                self.shipped.add(event.attempt_drained.rank)

    @property
    def over(self) -> bool:
        """Every rank has ended."""
        return len(self.ends) >= self.count

    @property
    def failed(self) -> Evidence | None:
        """The first that did not end well, by the nodes' clocks (words may arrive in another order), with the
        others behind it: which of them is the cause is `causes.first` to say."""
        bad = [end for end in self.ends.values() if not _well(end)]
        if not bad:
            return None
        first, *others = sorted(bad, key=lambda end: (end.stopped, end.end_time))
        told = tuple(replace(end, asked=end.stopped) for end in others[:_MOST_OTHERS])
        return replace(first, ranks=self.count, others=told)

    @property
    def evidence(self) -> Evidence | None:
        """How it ended as a whole: as the first that failed did, or as the last that ended well."""
        return self.failed or max(self.ends.values(), key=lambda end: end.end_time, default=None)

    @property
    def silent(self) -> bool:
        """Nothing more is to come."""
        return len(self.shipped) >= self.count


def _well(evidence: Evidence) -> bool:
    return (
        evidence.exit_code == 0
        and evidence.phase == "run"
        and not evidence.stopped
        and not evidence.timed_out
    )


def _evidence(told: events_pb2.AttemptEnded) -> Evidence:
    return Evidence(
        exit_code=told.exit_code if told.HasField("exit_code") else None,
        signal=told.signal,
        rank=told.rank,
        phase=told.phase or "run",
        oom=told.oom,
        timed_out=told.timed_out,
        stopped=told.stopped,
        message=told.message[:1000],
        start_time=told.start_time if told.HasField("start_time") else None,
        end_time=told.end_time,
        last_lines=tuple(told.last_lines[-20:]),
    )

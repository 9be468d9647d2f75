"""One line about how a run ended."""

from __future__ import annotations

from cairn._cli.looks import metrics_text, state_text
from cairn._cli.records import Record
from cairn._cli.session import Session
from cairn._cli.text import span


def say_ending(session: Session, record: Record) -> None:
    """On stderr: state, duration, attempts, last metrics; for a failure its cause."""
    line = state_text(record.state)
    line.append(f"  {record.name or record.uid[:12]}", style="bold not dim")
    if record.duration is not None:
        line.append(f"  in {span(record.duration)}", style="not bold dim")
    if record.attempts > 1:
        line.append(f"  after {record.attempts} attempts", style="not bold magenta")
    details = metrics_text(record)
    if details:
        line.append("  ").append_text(details)
    session.say(line)

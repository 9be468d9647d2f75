"""How states and tables look."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from cairn._cli.records import Record
from cairn._cli.text import age, clean, digits, short, span

_LOOK = {
    "PENDING": ("○", "yellow"),
    "ADMITTED": ("◔", "cyan"),
    "LAUNCHING": ("◑", "cyan"),
    "RUNNING": ("●", "bold blue"),
    "RECOVERING": ("↻", "magenta"),
    "SUCCEEDED": ("✓", "green"),
    "FAILED": ("✗", "red"),
    "CANCELLED": ("■", "dim"),
    "TIMED_OUT": ("⧖", "red"),
}
_LESS = ("epoch", "step", "system", "time", "lr", "learning_rate")


def state_text(state: str) -> Text:
    """A state with its sign and colour."""
    sign, style = _LOOK.get(state, ("?", ""))
    return Text(f"{sign} {clean(state).lower().replace('_', ' ')}", style=style)


def plain_table(**options: Any) -> Table:
    """Columns without lines around them."""
    return Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="dim", show_edge=False, **options)


def main_metrics(metrics: dict[str, float], count: int = 2) -> list[str]:
    """The keys that say most: validation before training, what is measured before what is set."""

    def rank(key: str) -> tuple[int, int, str]:
        low = key.lower()
        first = 0 if low.startswith(("val", "eval", "test")) else 1
        if any(low == word or low.startswith((f"{word}.", f"{word}/")) for word in _LESS):
            first = 2
        return first, 0 if any(word in low for word in ("acc", "f1", "auc", "score")) else 1, key

    return sorted(metrics, key=rank)[:count]


def metrics_text(record: Record, count: int = 2) -> Text:
    """The last values that say most; why it waits or how it failed where there are none."""
    text = Text()
    for key in main_metrics(record.metrics, count):
        text.append(f"{key} ", style="dim").append(f"{digits(record.metrics[key])}  ")
    if record.note and (record.state in ("PENDING", "RECOVERING", "FAILED", "TIMED_OUT") or not text):
        text.append(record.note, style="dim italic" if record.state == "PENDING" else "dim")
    return text


def records_table(records: Sequence[Record], *, width: int) -> Table:
    """The list that `ls` and `watch` show, as wide as the terminal allows."""
    table = plain_table()
    table.add_column("ID", no_wrap=True, style="cyan")
    table.add_column("NAME", no_wrap=True, overflow="ellipsis", max_width=28 if width < 120 else 40)
    if width >= 100:
        table.add_column("EXPERIMENT", no_wrap=True, overflow="ellipsis", max_width=24)
    table.add_column("STATE", no_wrap=True)
    table.add_column("TRIES", justify="right", no_wrap=True)
    table.add_column("AGE", justify="right", no_wrap=True)
    table.add_column("TOOK", justify="right", no_wrap=True)
    table.add_column("LAST METRICS", no_wrap=True, overflow="ellipsis", ratio=1)
    uids = [record.uid for record in records]
    for record in records:
        tries = Text(str(record.attempts or "-"), style="magenta" if record.attempts > 1 else "")
        row = [Text(short(record.uid, uids)), Text(record.name or "-")]
        if width >= 100:
            row.append(Text(record.experiment))
        row += [
            state_text(record.state), tries, Text(age(record.created)), Text(span(record.duration)),
            metrics_text(record, 2 if width < 140 else 3),
        ]  # fmt: skip
        table.add_row(*row)
    return table


def counts_text(records: Sequence[Record]) -> Text:
    """3 running · 2 pending · 12 succeeded"""
    counts: dict[str, int] = {}
    for record in records:
        counts[record.state] = counts.get(record.state, 0) + 1
    text = Text()
    for state, (_, style) in _LOOK.items():
        if state in counts:
            text.append(" · " if text else "", style="dim")
            text.append(f"{counts[state]} {state.lower().replace('_', ' ')}", style=style)
    return text

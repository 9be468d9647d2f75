"""How states and tables look."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from cairn._cli.records import Record
from cairn._cli.text import age, clean, digits, plain, short, span

_LOOK = {
    "PENDING": ("○", "yellow"),
    "ADMITTED": ("◔", "cyan"),
    "LAUNCHING": ("◑", "cyan"),
    "RUNNING": ("●", "bold blue"),
    "RECOVERING": ("↻", "magenta"),
    "PREEMPTING": ("⇤", "magenta"),
    "HELD": ("‖", "yellow"),
    "SUCCEEDED": ("✓", "green"),
    "FAILED": ("✗", "red"),
    "CANCELLED": ("■", "dim"),
    "TIMED_OUT": ("⧖", "red"),
}
GAP = 2  # between columns
_LESS = ("epoch", "step", "system", "time", "lr", "learning_rate")


def state_sign(state: str) -> Text:
    """A state as its sign alone."""
    sign, style = _LOOK.get(state, ("?", ""))
    return Text(sign, style=style)


def state_text(state: str) -> Text:
    """A state with its sign and colour."""
    sign, style = _LOOK.get(state, ("?", ""))
    return Text(f"{sign} {clean(state).lower().replace('_', ' ')}", style=style)


def plain_table(**options: Any) -> Table:
    """Columns without lines around them."""
    return Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        header_style="dim",
        show_edge=False,
        **options,
    )


def main_metrics(metrics: dict[str, float], count: int = 2) -> list[str]:
    """The keys that say most: validation before training, what is measured before what is set."""

    def rank(key: str) -> tuple[int, int, str]:
        low = key.lower()
        first = 0 if low.startswith(("val", "eval", "test")) else 1
        if any(low == word or low.startswith((f"{word}.", f"{word}/")) for word in _LESS):
            first = 2
        return first, 0 if any(word in low for word in ("acc", "f1", "auc", "score")) else 1, key

    return sorted(metrics, key=rank)[:count]


def metrics_text(record: Record, *, count: int = 2, room: int = 1000) -> Text:
    """The last values that say most; why it waits or how it failed. What does not fit is left out whole."""
    text = Text()
    for key in main_metrics(record.metrics, count):
        piece = Text("  " if text else "").append(f"{key} ", style="dim").append(digits(record.metrics[key]))
        if text.cell_len + piece.cell_len <= room:
            text.append_text(piece)
    if record.note and (
        record.state in ("PENDING", "HELD", "PREEMPTING", "RECOVERING", "FAILED", "TIMED_OUT") or not text
    ):
        text.append("  " if text else "").append(record.note, style="dim")
    text.truncate(room, overflow="ellipsis")
    return text


def records_table(records: Sequence[Record], *, width: int) -> Table:
    """The list that `ls` and `watch` show, as wide as the terminal allows."""
    wide = width >= 100
    titles = [
        "ID",
        "NAME",
        *(["EXPERIMENT"] if wide else []),
        "STATE",
        "TRIES",
        "AGE",
        "TOOK",
        "LAST METRICS",
    ]
    uids = [record.uid for record in records]
    rows = [_row(record, uids, wide) for record in records]
    # The last column takes what is left; rich would shrink all columns alike.
    taken = sum(max([len(title), *(row[place].cell_len for row in rows)]) + GAP
                for place, title in enumerate(titles[:-1]))  # fmt: skip
    table = plain_table()
    for title in titles:
        right = title in ("TRIES", "AGE", "TOOK")
        style = "cyan" if title == "ID" else ""
        table.add_column(title, no_wrap=True, justify="right" if right else "left", style=style)
    for record, row in zip(records, rows, strict=True):
        table.add_row(*row, metrics_text(record, count=3, room=max(10, width - taken)))
    return table


def _row(record: Record, uids: Sequence[str], wide: bool) -> list[Text]:
    name, experiment = Text(record.name or "-"), Text(record.experiment)
    for key, value in record.point.items():
        name.append(f" {key}={plain(value)}", style="dim")
    if record.group:
        name.append(f" in {record.group}", style="dim")
    name.truncate(36 if wide else 20, overflow="ellipsis")
    experiment.truncate(24, overflow="ellipsis")
    return [
        # Siblings of a sweep are made in one millisecond, and some may not be in this list.
        Text(short(record.uid, uids, 16 if record.sweep else 12)),
        name,
        *([experiment] if wide else []),
        state_text(record.state),
        Text(str(record.attempts or "-"), style="magenta" if record.attempts > 1 else ""),
        Text(age(record.created)),
        Text(span(record.duration)),
    ]


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

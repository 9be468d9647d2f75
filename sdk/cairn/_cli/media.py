"""`cairn media`"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from rich.table import Table
from rich.text import Text

from cairn._cli.errors import NOT_FOUND, CliError
from cairn._cli.find import ID, find
from cairn._cli.looks import plain_table
from cairn._cli.media_files import kind_of, save
from cairn._cli.session import Session, common
from cairn._cli.text import clean, digits, size
from cairn._http import Json
from cairn.client import Client

SHOWN_ROWS = 50
_BARS = " ▏▎▍▌▋▊▉█"
_WIDTH = 40


@click.command(short_help="Show or save a run's histograms, tables and images.")
@click.argument("run", type=ID)
@click.argument("key", required=False, default="")
@click.option("--step", type=click.IntRange(0), help="At this step. Default: the last.")
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path),
    help="Save them below this folder: of every step, if none is named.",
)  # fmt: skip
@common
def media(session: Session, run: str, key: str, step: int | None, out: Path | None) -> None:
    """Show what RUN logged beside numbers: a list, or what is under KEY; images are saved with --out."""
    client, uid = session.client, find(session.client, run)
    last = step is None and out is None
    found = list(client.media(
        uid, key, latest=last, start_step=step or 0, end_step=0 if step is None else step + 1
    ))  # fmt: skip
    if not found:
        raise CliError(_nothing(key, step), code=NOT_FOUND, hint=f"`cairn media {run}` lists what there is")
    if out is not None:
        _save(session, uid, found, out)
    elif session.as_json:
        session.emit([_told(client, uid, one) for one in found] if key else found)
    elif key:
        for one in found:
            _show(session, uid, one)
    else:
        session.out.print(_table(found))


def _nothing(key: str, step: int | None) -> str:
    what = f"no {clean(key)}" if key else "no histograms, tables or images"
    return f"the run has {what}" + ("" if step is None else f" at step {step}")


def _table(found: list[Json]) -> Table:
    table = plain_table()
    for title in ("KEY", "WHAT", "LAST STEP", "STEPS"):
        table.add_column(title, justify="right" if "STEP" in title else "left", no_wrap=True)
    for one in found:
        items = one["items"]
        what = facts(items[0]) + (f", and {len(items) - 1} more" if len(items) > 1 else "")
        table.add_row(
            Text(clean(str(one["key"])), "cyan"), what, str(one["step"]), str(one.get("count") or 1)
        )
    return table


def facts(item: Json) -> str:
    """What an item is, in words."""
    kind, weight = kind_of(item), size(int(item["size"]))
    if kind == "table":
        return f"table of {int(item['rows']):,} rows, {weight}"
    if kind == "image":
        pixels = f" {item['width']} x {item['height']}" if item.get("width") else ""
        return f"image{pixels} {str(item['media_type']).removeprefix('image/')}, {weight}"
    return kind


def _save(session: Session, uid: str, found: list[Json], out: Path) -> None:
    files = [
        save(session.client, uid, one, index, out) for one in found for index in range(len(one["items"]))
    ]
    if session.as_json:
        session.emit([str(path) for path in files])
    else:
        for path in files:
            session.out.print(Text(f"{path}  {size(path.stat().st_size)}"), soft_wrap=True)


def _told(client: Client, uid: str, one: Json) -> Json:
    """With what the items say, where that is JSON."""
    items = [dict(item) for item in one["items"]]
    for index, item in enumerate(items):
        data = item.pop("data", "")
        if item["media_type"] == "application/json":
            item["value"] = _value(client, uid, one, {**item, "data": data}, index)
    return {**one, "items": items}


def _value(client: Client, uid: str, one: Json, item: Json, index: int) -> Any:
    return json.loads(client.media_bytes(uid, str(one["key"]), int(one["step"]), item, index))


def _show(session: Session, uid: str, one: Json) -> None:
    for index, item in enumerate(one["items"]):
        caption = f"  {clean(str(item.get('caption') or ''))}".rstrip()
        head = Text(clean(str(one["key"])), "cyan").append(f" at step {one['step']}", style="dim")
        session.out.print(head.append(f"  {facts(item)}{caption}"))
        kind = kind_of(item)
        if kind == "image":
            session.say(Text("`--out DIR` saves it", style="dim"))
            continue
        value = _value(session.client, uid, one, item, index)
        lines = [_cells(value)] if kind == "table" else bars(value)
        for line in lines:
            session.out.print(line)


def _cells(value: Json) -> Table:
    table = plain_table()
    for column in value["columns"]:
        table.add_column(clean(str(column)), overflow="fold")
    for row in value["rows"][:SHOWN_ROWS]:
        table.add_row(*(Text(_cell(cell)) for cell in row))
    if (more := len(value["rows"]) - SHOWN_ROWS) > 0:
        table.caption = f"{more:,} more rows: --json or --out"
    return table


def _cell(cell: Any) -> str:
    if cell is None:
        return ""
    return digits(cell) if isinstance(cell, float) else clean(str(cell))


def bars(value: Json) -> list[Text]:
    """A histogram: a line for each bin, neighbours taken together where there are more than 32."""
    edges, counts = list(map(float, value["edges"])), list(map(int, value["counts"]))
    share = -(-len(counts) // 32)
    grouped = [sum(counts[start : start + share]) for start in range(0, len(counts), share)]
    starts, most = edges[:-1:share], max([*grouped, 1])
    labels = [digits(start) for start in starts]
    margin = max(map(len, labels))
    lines = []
    for label, count in zip(labels, grouped, strict=True):
        eighths = round(count / most * _WIDTH * 8)
        bar = "█" * (eighths // 8) + _BARS[eighths % 8].strip()
        lines.append(
            Text(f"{label:>{margin}} ", "dim").append(f"{bar:<{_WIDTH}}", "blue").append(f" {count:,}")
        )
    lines.append(Text(f"{digits(edges[-1]):>{margin}}", "dim"))
    if left_out := int(value.get("left_out") or 0):
        lines.append(Text(f"{left_out:,} NaN or infinite", "yellow"))
    return lines

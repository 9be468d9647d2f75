"""`cairn datasets`"""

from __future__ import annotations

from dataclasses import asdict

import click
from rich.text import Text

from cairn._cli.errors import NOT_FOUND, USAGE, CliError
from cairn._cli.looks import plain_table
from cairn._cli.results import latest_of_each, others, ref_of, split
from cairn._cli.session import Session, common
from cairn._cli.text import age, clean, moment, plain, size
from cairn._http import Json
from cairn._looking import Change, Table, difference, readable, table
from cairn._transfer import entries_of

_MOST = 500
_SHOWN = 50
_COLUMNS = 12


@click.group()
def datasets() -> None:
    """Datasets in versions: what is in them, and what changed."""


@datasets.command("ls")
@click.argument("name", required=False)
@common
def datasets_ls(session: Session, name: str | None) -> None:
    """List datasets by their newest versions, or the versions of one."""
    found = (
        list(session.client.versions(name, limit=_MOST))
        if name
        else latest_of_each(list(session.client.versions_of_kind("dataset", limit=_MOST)))
    )
    if session.as_json:
        session.emit(found)
        return
    if not found:
        session.say("there are none yet; cairn.save_dataset makes one")
        return
    shown = plain_table()
    for title in ("DATASET", "ALIASES", "FORMAT", "ROWS", "COLUMNS", "SIZE", "FROM RUN", "AGE"):
        shown.add_column(title, no_wrap=True, justify="right" if title in ("ROWS", "SIZE", "AGE") else "left")
    for each in found:
        about = each.get("metadata") or {}
        columns = [clean(str(column.get("name"))) for column in about.get("columns", [])]
        shown.add_row(
            Text(ref_of(each.get("name")), "cyan"),
            others(each.get("aliases", [])),
            Text(clean(str(about.get("format") or "files"))),
            Text(f"{int(about['rows']):,}" if "rows" in about else "-"),
            Text(", ".join(columns[:4]) + (f" +{len(columns) - 4}" if len(columns) > 4 else "") or "-"),
            Text(_weight(each)),
            Text(ref_of(each.get("run"))[:12] or "-"),
            Text(age(moment(each.get("create_time")))),
        )
    session.out.print(shown)


@datasets.command("diff")
@click.argument("before", metavar="NAME:VERSION")
@click.argument("now", metavar="NAME:VERSION")
@common
def datasets_diff(session: Session, before: str, now: str) -> None:
    """Say which files were added, removed and changed, and of tables which columns and how many rows."""
    client = session.client
    old, new = client.version(*split(before)), client.version(*split(now))
    found = difference(client.api, client.team, old, new)
    if session.as_json:
        session.emit(found.json())
        return
    for sign, style, files in (("+", "green", found.added), ("-", "red", found.removed)):
        for path, count in files[:_SHOWN]:
            session.out.print(Text(f"{sign} {clean(path)}", style).append(f"  {size(count)}", "dim"))
        if len(files) > _SHOWN:
            session.out.print(Text(f"{sign} and {len(files) - _SHOWN} more", style))
    for change in found.changed[:_SHOWN]:
        session.out.print(_changed(change))
    if len(found.changed) > _SHOWN:
        session.out.print(Text(f"~ and {len(found.changed) - _SHOWN} more", "yellow"))
    session.out.print(Text(
        f"{len(found.added)} added, {len(found.removed)} removed, {len(found.changed)} changed, "
        f"{found.same} the same", "dim",
    ))  # fmt: skip


@datasets.command("preview")
@click.argument("ref", metavar="NAME[:VERSION]")
@click.option(
    "--file", "path", default="", metavar="PATH", help="Which file; else the first that can be read."
)
@click.option("-n", "--rows", type=click.IntRange(1, 1000), default=10, show_default=True)
@common
def datasets_preview(session: Session, ref: str, path: str, rows: int) -> None:
    """Show the columns and first rows of a table; no more of it is read than that."""
    client = session.client
    version = client.version(*split(ref))
    entries = entries_of(client.api, version)
    entry = next((each for each in entries if each.path == path), None) if path else readable(entries)
    if entry is None:
        names = ", ".join(clean(each.path) for each in entries[:8])
        raise CliError(
            f"{clean(ref)} has no file {clean(path)}" if path else f"nothing in {clean(ref)} is a table",
            code=NOT_FOUND, hint=f"it has {names}",
        )  # fmt: skip
    try:
        found = table(client.api, client.team, entry, rows=rows)
    except ImportError:
        raise CliError(
            "parquet is read by pyarrow, and there is none here", hint="pip install pyarrow"
        ) from None
    except ValueError as error:
        raise CliError(str(error), code=USAGE) from None
    if session.as_json:
        session.emit({"path": entry.path, **asdict(found)})
        return
    _print_table(session, found)
    total = "?" if found.rows is None else f"{found.rows:,}"
    session.say(
        Text(f"{clean(entry.path)}: {len(found.first)} of {total} rows, {len(found.columns)} columns", "dim")
    )


def _print_table(session: Session, found: Table) -> None:
    shown = plain_table()
    names = [name for name, _ in found.columns[:_COLUMNS]]
    for name, kind in found.columns[:_COLUMNS]:
        shown.add_column(f"{clean(name)}\n{clean(kind)}" if kind else clean(name), max_width=40)
    for row in found.first:
        shown.add_row(*(Text(plain(row.get(name)).replace("\n", " ")) for name in names))
    session.out.print(shown)
    if len(found.columns) > _COLUMNS:
        rest = ", ".join(clean(name) for name, _ in found.columns[_COLUMNS : _COLUMNS + 20])
        session.say(Text(f"and {len(found.columns) - _COLUMNS} more columns: {rest}", "dim"))


def _changed(change: Change) -> Text:
    text = Text(f"~ {clean(change.path)}", "yellow")
    text.append(f"  {size(change.size_before)} > {size(change.size)}", "dim")
    if change.rows is not None and change.rows_before is not None:
        text.append(f"  rows {change.rows_before:,} > {change.rows:,}", "default")
    for sign, style, names in (
        ("+", "green", change.columns_added),
        ("-", "red", change.columns_removed),
        ("~", "yellow", change.columns_retyped),
    ):
        for name in names[:_SHOWN]:
            text.append(f"  {sign}{clean(name)}", style)
    return text


def _weight(version: Json) -> str:
    about = version.get("metadata") or {}
    if about.get("format") != "reference":
        return size(float(version.get("size") or 0))
    sizes = [each.get("size") for each in about.get("references", [])]
    known = len(sizes) == about.get("reference_count") and None not in sizes
    return size(float(sum(sizes))) if known else "elsewhere"

"""`cairn usage`: GPU-hours, CPU-hours and money, to the unit as in the ledger."""

from __future__ import annotations

import csv
import io
from datetime import UTC, datetime, timedelta
from typing import Any

import click
from rich.text import Text

from cairn._cli.errors import USAGE, CliError
from cairn._cli.looks import plain_table
from cairn._cli.session import Session, common
from cairn._cli.text import clean
from cairn._http import Json

DIMENSIONS = ("team", "user", "project", "flavor")
PERIODS = ("day", "week", "month", "quarter", "year")
_SPANS = {"h": 3600, "d": 86_400, "w": 604_800}
_HOUR = 3_600_000


@click.command(short_help="Show GPU-hours and money by team, user, project, flavor, period.")
@click.option("--by", "group_by", default="", metavar="LIST", help="Such as user or team,flavor.")
@click.option("--period", type=click.Choice(PERIODS), default=None, help="Also one row for each such period.")
@click.option("--since", default="", metavar="TIME", help="A date or moment, or 24h, 7d ago. UTC by itself.")
@click.option("--until", default="", metavar="TIME", help="Up to before this time.")
@click.option("--timezone", default="", metavar="ZONE", help="Of the periods, such as Europe/Berlin.")
@click.option("--all", "every", is_flag=True, help="Of all of your teams (admins: of everybody).")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV, in exact units of the ledger.")
@common
def usage(
    session: Session,
    group_by: str,
    period: str | None,
    since: str,
    until: str,
    timezone: str,
    every: bool,
    as_csv: bool,
) -> None:
    """Show what was computed. Running jobs are counted up to the last few minutes."""
    by = [name.strip() for name in group_by.split(",") if name.strip()]
    for name in by:
        if name not in DIMENSIONS:
            raise CliError(f"--by {name!r} is not one of {', '.join(DIMENSIONS)}", code=USAGE)
    query: dict[str, Any] = {
        "group_by": [name.upper() for name in by] or None,
        "period": period.upper() if period else None,
        "timezone": timezone or None,
        "start_time": rfc3339("--since", since),
        "end_time": rfc3339("--until", until),
    }
    found = session.client.usage_sums(query, every=every or "team" in by)
    if session.as_json:
        session.emit(found)
        return
    columns = ([] if period is None else ["period_start"]) + by
    rows = list(found.get("rows") or [])
    if as_csv:
        click.echo(_csv(columns, rows), nl=False)
        return
    _table(session, columns, rows, currency=clean(str(found.get("currency") or "")))


def _csv(columns: list[str], rows: list[Json]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    units = ["gpu_millis", "cpu_millis", "money_micros", "jobs"]
    writer.writerow([*columns, *units])
    for row in rows:
        names = [_bare(row.get(name)) for name in columns]
        writer.writerow([*names, *(int(row.get(unit) or 0) for unit in units)])
    return text.getvalue()


def _table(session: Session, columns: list[str], rows: list[Json], *, currency: str) -> None:
    table = plain_table()
    titles = {"period_start": "FROM"}
    for name in columns:
        table.add_column(titles.get(name, name.upper()))
    for title in ("GPU-HOURS", "CPU-HOURS", "COST", "JOBS"):
        table.add_column(title, justify="right")
    totals = [0, 0, 0, 0]
    for row in rows:
        numbers = [int(row.get(n) or 0) for n in ("gpu_millis", "cpu_millis", "money_micros", "jobs")]
        totals = [a + b for a, b in zip(totals, numbers, strict=True)]
        names = [
            str(row.get(name) or "")[:16].replace("T", " ")
            if name == "period_start"
            else _bare(row.get(name))
            for name in columns
        ]
        table.add_row(*(Text(clean(name) or "-", "cyan") for name in names), *_shown(numbers, currency))
    if len(rows) != 1:
        blank = ["all", *([""] * (len(columns) - 1))] if columns else []
        # A job may stand in several rows: its number is not summed.
        table.add_row(*blank, *_shown(totals, currency)[:3], "", style="bold")
    session.out.print(table)


def _shown(numbers: list[int], currency: str) -> list[str]:
    gpu, cpu, money, jobs = numbers
    cost = f"{money / 1e6:,.2f} {currency}".strip() if money else "-"
    return [f"{gpu / _HOUR:,.3f}", f"{cpu / _HOUR:,.3f}", cost, f"{jobs:,}"]


def _bare(value: object) -> str:
    text = str(value or "")
    return text.removeprefix("users/")


def rfc3339(option: str, text: str) -> str | None:
    """RFC 3339 of a date, a moment, or a length of time ago."""
    if not text:
        return None
    if text[:-1].isdigit() and text[-1] in _SPANS and len(text) < 8:
        moment = datetime.now(UTC) - timedelta(seconds=int(text[:-1]) * _SPANS[text[-1]])
        return moment.isoformat().replace("+00:00", "Z")
    try:
        given = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        raise CliError(f"{option} {text!r} is no time; give 2026-12-24, or 24h, 7d", code=USAGE) from None
    moment = given.astimezone(UTC) if given.tzinfo else given.replace(tzinfo=UTC)
    return moment.isoformat().replace("+00:00", "Z")

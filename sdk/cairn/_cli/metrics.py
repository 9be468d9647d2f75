"""`cairn metrics`"""

from __future__ import annotations

import sys

import click
from rich.text import Text

from cairn._axes import axis_of, places, with_axes
from cairn._cli.errors import NOT_FOUND, USAGE, CliError
from cairn._cli.find import ID, find
from cairn._cli.looks import plain_table
from cairn._cli.plot import Curve, plot
from cairn._cli.records import SYSTEM
from cairn._cli.session import Session, common
from cairn._cli.summary import dropped_text, lost_text
from cairn._cli.text import clean, digits, number, sparkline
from cairn._http import Json

DRAWN = 240
COURSE = 24


@click.command(short_help="Show what a run measured.")
@click.argument("run", type=ID)
@click.argument("keys", nargs=-1, metavar="[KEY]...")
@click.option("--csv", "as_csv", is_flag=True, help="Every point as CSV: run, key, step, time, value.")
@click.option("--system", is_flag=True, help="Also what it used of its machine (system/...).")
@common
def metrics(session: Session, run: str, keys: tuple[str, ...], as_csv: bool, system: bool) -> None:
    """Show what a run measured: of each metric the last value, extremes and course; a named one is drawn.

    With --json or --csv and a KEY, every point of it; with --json alone, what each metric came to.
    """
    if as_csv and session.as_json:
        raise CliError("--csv and --json exclude each other", code=USAGE)
    client, uid = session.client, find(session.client, run)
    if as_csv or (session.as_json and keys):
        history = client.history(uid, keys)
        if session.as_json:
            session.emit(history.rows())
        else:
            history.write_csv(sys.stdout)
        return
    told = client.run(uid)
    axes = told.get("axes", {})
    summary = {key: found for key, found in told.get("summary", {}).items()
               if (key in keys if keys else system or not key.startswith(SYSTEM))}  # fmt: skip
    if session.as_json:
        session.emit(summary)
        return
    series = {
        str(each["key"]): each
        for each in client.series(
            [uid], with_axes([axes], _asked(summary, keys))[:100], max_buckets=DRAWN, count_unbounded=True
        )
    }
    over = {key: series.get(axis_of(axes, key)) for key in keys}
    series = {key: each for key, each in series.items() if key in (keys or summary)}
    if not series:
        raise CliError(_nothing(keys), code=NOT_FOUND, hint=f"`cairn metrics {run}` lists what there is")
    session.out.print(_table(summary, series))
    if lost := lost_text(told):
        session.out.print(lost)
    if dropped := dropped_text(told):
        session.out.print(dropped)
    for key in keys:
        if key in series:
            _draw(session, series[key], over[key])
        else:
            session.say(Text(f"the run has no metric {clean(key)}", style="yellow"))


def _asked(summary: Json, keys: tuple[str, ...]) -> list[str]:
    return (list(keys) or list(summary))[:100]


def _nothing(keys: tuple[str, ...]) -> str:
    return f"the run has no metric {', '.join(map(clean, keys))}" if keys else "the run has no metrics yet"


def _table(summary: Json, series: dict[str, Json]) -> object:
    table = plain_table()
    unbounded = {key: int(each.get("unbounded", 0)) for key, each in series.items()}
    counted = ["NAN/INF"] if any(unbounded.values()) else []
    for title in ("METRIC", "LAST", "STEP", "MIN", "MAX", "POINTS", *counted):
        table.add_column(title, justify="left" if title == "METRIC" else "right", no_wrap=True)
    table.add_column("COURSE", style="blue", no_wrap=True)
    for key in sorted(series):
        told = summary.get(key) or _worked_out(series[key])
        table.add_row(
            Text(clean(key), "cyan"), digits(told.get("last", 0)), str(told.get("last_step", 0)),
            digits(told.get("min")), digits(told.get("max")), str(told.get("count", 0)),
            *(str(unbounded[key] or "") for _ in counted),
            sparkline(series[key].get("last", []), COURSE),
        )  # fmt: skip
    return table


def _worked_out(series: Json) -> Json:
    """What a metric came to, where the run's summary left it out: it has at most 100."""
    finite = [[value for each in series.get(name, []) if (value := number(each)) is not None]
              for name in ("min", "max")]  # fmt: skip
    return {
        "last": series["last"][-1], "last_step": series["steps"][-1],
        "min": min(finite[0], default=None), "max": max(finite[1], default=None),
        "count": sum(map(int, series["counts"])),
    }  # fmt: skip


def _draw(session: Session, series: Json, axis: Json | None) -> None:
    """A bucket's extremes are drawn, so a spike of one step is seen. `axis` is what it is drawn over."""
    points: list[tuple[float, float]] = []
    across = places(series.get("steps", []), axis)
    for x, *values in zip(across, *(series.get(name, []) for name in ("min", "max", "last")), strict=True):
        points += [(x, found) for each in values if (found := number(each)) is not None]
    session.out.print()
    width = min(100, max(20, min(session.out.width, 110) - 12))
    title = clean(str(series["key"])) + (f" over {clean(str(axis['key']))}" if axis else "")
    for line in plot([Curve(title, points)], width=width):
        session.out.print(line)

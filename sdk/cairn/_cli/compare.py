"""`cairn compare`"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click
from rich.table import Table
from rich.text import Text

from cairn._axes import axis_of, places, with_axes
from cairn._cli.errors import NOT_FOUND, CliError
from cairn._cli.find import ID, SEARCHED, find_all
from cairn._cli.looks import GAP, main_metrics, plain_table, state_sign
from cairn._cli.picture import check_library, draw
from cairn._cli.plot import Curve, plot
from cairn._cli.records import listing
from cairn._cli.session import Session, common
from cairn._cli.text import clean, digits, number, plain, short, span, sparkline
from cairn._http import Json

MOST_RUNS = 100
PLOTTED = 8


@click.command(short_help="Put runs side by side.")
@click.argument("runs", type=ID, nargs=-1)
@click.option("-e", "--experiment", default="", metavar="ID", help="All runs of this experiment.")
@click.option("-m", "--metric", "metrics", multiple=True, metavar="KEY", help="Only this metric; draws it.")
@click.option("--minimize", multiple=True, metavar="KEY", help="Of this metric the least is the best.")
@click.option(
    "--png",
    "picture",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Writes the curves of each --metric into a picture.",
)
@click.option("--all-params", is_flag=True, help="Also the params that do not differ.")
@common
def compare(
    session: Session,
    runs: tuple[str, ...],
    experiment: str,
    metrics: tuple[str, ...],
    minimize: tuple[str, ...],
    picture: Path | None,
    all_params: bool,
) -> None:
    """Put runs side by side: the params that differ, last and best values, attempts, duration.

    Without RUNS or --experiment: the newest run's experiment.
    """
    if picture is not None:
        check_library()
    uids = _which(session, runs, experiment)
    client = session.client
    comparison = client.compare(uids, metrics, minimize=minimize, all_params=all_params)
    rows = comparison.get("rows", [])
    axes = {str(row["run"]): row.get("axes", {}) for row in rows}
    found = {key: 0.0 for row in rows for key in row.get("metrics", {})}
    if picture is not None:
        drawn = [key for key in metrics if key in found] or ([] if metrics else main_metrics(found, 3))
        if not drawn:
            raise CliError("there is nothing to draw: no run here has such a metric", code=NOT_FOUND)
        draw(client, picture, uids, drawn, names=_labels(rows), axes=axes)
        session.say(Text(f"{len(drawn)} x {len(rows)} curves are in {picture}", style="dim"))
    if session.as_json:
        session.emit(comparison)
        return
    for key in metrics:
        if key not in found:
            session.say(Text(f"no run here has the metric {key}", style="yellow"))
    keys = [key for key in metrics if key in found] or main_metrics(found, 3)
    asked = with_axes(axes.values(), keys[:1])[:100]
    found_series = client.series(uids, asked, max_buckets=120) if keys else []
    series = [each for each in found_series if each["key"] == keys[0]]
    others = [record.uid for record in listing(client, limit=SEARCHED)[0]]
    columns = _columns(comparison, keys, set(minimize), _courses(series), others)
    session.out.print(_table(columns, session.out.width))
    if metrics and keys:
        over = {str(each["run"]): each for each in found_series
                if each["key"] == axis_of(axes.get(str(each["run"]), {}), keys[0])}  # fmt: skip
        _draw(session, rows, series, keys[0], over)


def _which(session: Session, runs: Sequence[str], experiment: str) -> list[str]:
    if runs:
        return find_all(session.client, runs)
    if not experiment:
        newest, _ = listing(session.client, limit=1)
        if not newest:
            raise CliError("there are no runs yet", code=NOT_FOUND, hint="`cairn run -- python train.py`")
        experiment = newest[0].experiment
        session.say(Text(f"experiment {experiment}", style="dim"))
    uids = [str(run["uid"]) for run in session.client.runs(experiment=experiment, limit=MOST_RUNS)]
    if not uids:
        raise CliError(f"there are no runs in experiment {experiment!r}", code=NOT_FOUND, hint="`cairn ls`")
    return uids


@dataclass(frozen=True, slots=True)
class Column:
    """A column and how soon it goes where there is no room: the highest first, 0 never."""

    title: str
    cells: list[Text]
    right: bool = True
    spare: int = 0
    style: str = ""

    @property
    def width(self) -> int:
        return max([len(self.title), *(cell.cell_len for cell in self.cells)]) + GAP


def _table(columns: list[Column], width: int) -> Table:
    while sum(column.width for column in columns) > width + GAP and any(column.spare for column in columns):
        columns.remove(max(columns, key=lambda column: column.spare))
    table = plain_table()
    for column in columns:
        table.add_column(
            column.title, justify="right" if column.right else "left", no_wrap=True, style=column.style
        )
    for row in zip(*(column.cells for column in columns), strict=True):
        table.add_row(*row)
    return table


def _columns(
    comparison: Json, keys: Sequence[str], minimize: set[str], courses: dict[str, str], others: Sequence[str]
) -> list[Column]:
    rows = comparison.get("rows", [])
    uids = [str(row["run"]).rsplit("/", 1)[-1] for row in rows]
    names = [clean(str(row.get("display_name") or "-"))[:28] for row in rows]
    tries = [int(row.get("attempts") or 0) for row in rows]
    columns = [
        Column("", [state_sign(str(row.get("state", ""))) for row in rows], right=False),
        Column("RUN", [Text(short(uid, others)) for uid in uids], right=False, style="cyan"),
        # Where all have one name it tells nothing.
        Column("NAME", list(map(Text, names)), right=False, spare=9 if len(set(names)) == 1 else 3),
    ]
    for key in comparison.get("param_keys", []):
        if any(key in row.get("params", {}) for row in rows):
            columns.append(Column(clean(key), [_param(row, key) for row in rows], style="yellow"))
    for place, key in enumerate(keys):
        best = _best(rows, key, minimize)
        cells = [_values(row, key, best) for row in rows]
        columns.append(Column(clean(key), [cell[0] for cell in cells], spare=2 * place))
        columns.append(Column("LAST", [cell[1] for cell in cells], spare=5 + place))
        if place == 0 and courses:
            course = [Text(courses.get(uid, ""), style="blue") for uid in uids]
            columns.append(Column("COURSE", course, right=False, spare=4))
    columns.append(Column("TRIES", [Text(str(n or "-"), "magenta" if n > 1 else "") for n in tries], spare=7))
    columns.append(Column("TOOK", [Text(span(number(row.get("duration")))) for row in rows], spare=8))
    return columns


def _param(row: Json, key: str) -> Text:
    params = row.get("params", {})
    return Text(plain(params[key])[:40]) if key in params else Text("-", "dim")


def _values(row: Json, key: str, best: float | None) -> list[Text]:
    value = row.get("metrics", {}).get(key)
    if value is None:
        return [Text("-", "dim"), Text("-", "dim")]
    own = number(value.get("best", 0))
    wins = best is not None and own == best
    return [Text(("★ " if wins else "") + digits(own), "bold green" if wins else ""),
            Text(digits(value.get("last", 0)), "dim")]  # fmt: skip


def _best(rows: Sequence[Json], key: str, minimize: set[str]) -> float | None:
    """The best of all runs; None where there are not two to choose from."""
    values = [number(row["metrics"][key].get("best", 0)) for row in rows if key in row.get("metrics", {})]
    finite = [value for value in values if value is not None and value == value]
    if len(finite) < 2:
        return None
    least = key in minimize or "loss" in key.lower() or "error" in key.lower()
    return min(finite) if least else max(finite)


def _courses(series: Sequence[Json]) -> dict[str, str]:
    return {str(each["run"]).rsplit("/", 1)[-1]: sparkline(each.get("last", []), 16) for each in series}


def _labels(rows: Sequence[Json]) -> dict[str, str]:
    """A name for each curve: its own; the params that differ, where names repeat."""
    names = [clean(str(row.get("display_name") or "")) for row in rows]
    labels = {}
    for row, name in zip(rows, names, strict=True):
        params = " ".join(
            f"{clean(key)}={plain(value)}" for key, value in list(row.get("params", {}).items())[:3]
        )
        short_id = str(row["run"]).rsplit("/", 1)[-1][:12]
        labels[str(row["run"])] = name if name and names.count(name) == 1 else params or short_id
    return labels


def _draw(
    session: Session, rows: Sequence[Json], series: Sequence[Json], key: str, over: dict[str, Json]
) -> None:
    """`over`: by run the series that its curve is drawn over, where that is not the step."""
    names = _labels(rows)
    curves = []
    for each in series[:PLOTTED]:
        run = str(each["run"])
        values = [number(value) for value in each.get("last", [])]
        across = places(each.get("steps", []), over.get(run))
        points = [(x, y) for x, y in zip(across, values, strict=True) if y is not None]
        curves.append(Curve(names[run], points))
    session.out.print()
    names_of_axes = sorted({clean(str(each["key"])) for each in over.values()})
    title = clean(key) + (f" over {', '.join(names_of_axes)}" if names_of_axes else "")
    session.out.print(Text(title, style="bold"))
    for line in plot(curves, width=min(100, max(20, min(session.out.width, 110) - 12))):
        session.out.print(line)
    if len(series) > PLOTTED:
        session.out.print(Text(f"the first {PLOTTED} of {len(series)} runs are drawn", style="dim"))

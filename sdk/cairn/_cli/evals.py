"""`cairn evals`"""

from __future__ import annotations

import click
from rich.text import Text

from cairn._cli.looks import main_metrics, plain_table
from cairn._cli.results import metrics_line, metrics_of, others, ref_of
from cairn._cli.session import Session, common
from cairn._cli.text import age, clean, digits, moment
from cairn._http import Json

_MOST = 500
_METRICS = 6


@click.group()
def evals() -> None:
    """Evaluations: how versions of models do on datasets."""


@evals.command("ls")
@common
def evals_ls(session: Session) -> None:
    """List evaluations, newest first."""
    found = list(session.client.versions_of_kind("evaluation", limit=_MOST))
    if session.as_json:
        session.emit(found)
        return
    if not found:
        session.say("there are none yet; cairn.log_evaluation makes one")
        return
    table = plain_table()
    for title in ("EVALUATION", "MODEL", "DATASET", "METRICS", "FROM RUN", "AGE"):
        table.add_column(title, no_wrap=True, justify="right" if title == "AGE" else "left")
    for each in found:
        about = each.get("metadata") or {}
        table.add_row(
            Text(ref_of(each.get("name")), "cyan"),
            Text(clean(str(about.get("model") or "-"))),
            Text(clean(str(about.get("dataset") or "-"))),
            metrics_line(metrics_of(each)),
            Text(ref_of(each.get("run"))[:12] or "-"),
            Text(age(moment(each.get("create_time")))),
        )
    session.out.print(table)


@evals.command("board")
@click.argument("dataset", metavar="DATASET[:VERSION]")
@click.option("-m", "--metric", default="", help="What ranks them; else the metric that most have.")
@click.option(
    "--tolerance", type=click.FloatRange(0), default=0.0, help="Worse by this much is no regression."
)
@click.option("--fail", is_flag=True, help="Exit with 1 where the newest version of a model got worse.")
@common
@click.pass_context
def evals_board(
    ctx: click.Context, /, session: Session, dataset: str, metric: str, tolerance: float, fail: bool
) -> None:
    """Rank versions of models on a dataset, best first; what got worse against the version before, or
    against the one under `production`, is flagged."""
    name, _, ref = dataset.partition(":")
    board = session.client.board(name, ref, metric=metric, tolerance=tolerance)
    if session.as_json:
        session.emit(board)
    elif not board.get("rows"):
        session.say(f"nothing was evaluated on {clean(dataset)} yet; cairn.log_evaluation does that")
    else:
        _print(session, board)
    if fail and any(row.get("regressions") for row in _newest(board)):
        ctx.exit(1)


def _print(session: Session, board: Json) -> None:
    chosen = str(board.get("metric", ""))
    rest = main_metrics(
        dict.fromkeys((key for key in board.get("metric_keys", []) if key != chosen), 0.0), _METRICS
    )
    table = plain_table()
    table.add_column("#", justify="right")
    for title in ("MODEL", "ALIASES", "DATASET"):
        table.add_column(title, no_wrap=True)
    for key in (chosen, *rest):
        table.add_column(
            clean(key), justify="right", no_wrap=True, header_style="bold" if key == chosen else "dim"
        )
    table.add_column("WORSE", no_wrap=True)
    for place, row in enumerate(board["rows"], start=1):
        metrics = row.get("metrics", {})
        worse = {str(each["metric"]) for each in row.get("regressions", [])}
        table.add_row(
            Text(str(place), "dim"),
            Text(ref_of(row.get("model")), "cyan"),
            others(row.get("aliases", [])),
            Text(ref_of(row.get("dataset"))),
            *(Text(digits(metrics.get(key)), "red" if key in worse else "") for key in (chosen, *rest)),
            _worse(row),
        )
    session.out.print(table)
    if board.get("truncated"):
        session.say(Text("older evaluations are left out", "dim"))


def _worse(row: Json) -> Text:
    text = Text()
    for each in row.get("regressions", []):
        than = clean(str(each.get("alias") or "")) or ref_of(each.get("against"))
        text.append("  " if text else "▼ ", "red")
        text.append(f"{clean(str(each['metric']))} was {digits(each['was'])} ({than})", "red")
    return text


def _newest(board: Json) -> list[Json]:
    """Of each model and version of the data the row with the highest version."""
    found: dict[tuple[str, str], tuple[int, Json]] = {}
    for row in board.get("rows", []):
        model, _, version = str(row.get("model", "")).rpartition("/")
        key = (model, str(row.get("dataset")))
        if key not in found or found[key][0] < int(version):
            found[key] = (int(version), row)
    return [row for _, row in found.values()]

"""What a person sees while the demo runs: a table that moves, on stderr, so that stdout stays for facts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from cairn_server.demo.facts import ACCURACY, LOSS, Training
from cairn_server.demo.script import LAST_STEP, MODEL, Outcome, label

COLOURS = {"SUCCEEDED": "green", "RUNNING": "cyan", "RECOVERING": "yellow", "PENDING": "dim", "FAILED": "red"}
NUMBERS = {"try", "step", "loss", "accuracy", "saved"}
CURVE = 10  # characters
SPARKS = "▁▂▃▄▅▆▇█"


class Silent:
    """Says nothing: for ``--json``."""

    def say(self, text: str) -> None:
        """Nothing."""

    def show(self, trainings: list[Training]) -> None:
        """Nothing."""


class Terminal:
    """A live table of the trainings with sentences above it. Use as a context manager."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, refresh_per_second=8, transient=False)

    def __enter__(self) -> Terminal:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def say(self, text: str) -> None:
        """One sentence, above the table."""
        self._live.console.print(f"[yellow]●[/] {text}")

    def show(self, trainings: list[Training]) -> None:
        """The trainings as they are now."""
        self._live.update(progress_table(trainings))


def progress_table(trainings: list[Training]) -> Table:
    """States, steps and curves of the sweep."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("training", "state", "try", "step", "loss", "", "accuracy", "saved"):
        table.add_column(heading, justify="right" if heading in NUMBERS else "left", no_wrap=True)
    for training in trainings:
        colour = COLOURS.get(training.state, "white")
        table.add_row(
            label(training),
            f"[{colour}]{training.state.lower()}[/]",
            str(training.attempts or ""),
            f"{training.step}/{LAST_STEP}" if training.step else "",
            "" if training.loss is None else f"{training.loss:.4f}",
            sparkline(training.history),
            "" if training.accuracy is None else f"{training.accuracy:.4f}",
            str(training.checkpoint_step or ""),
        )
    return table


def sparkline(values: list[float]) -> str:
    """The course of the values in at most `CURVE` characters, between the least and the greatest."""
    if not values:
        return ""
    every = max(1, -(-len(values) // CURVE))
    values = values[::every]
    low, high = min(values), max(values)
    scale = (len(SPARKS) - 1) / ((high - low) or 1.0)
    return "".join(SPARKS[round((value - low) * scale)] for value in values)


def print_outcome(console: Console, outcome: Outcome, url: str) -> None:
    """The comparison, the model with where it comes from, and what to type next."""
    console.print("\n[bold]The sweep, compared[/] [dim]by the best accuracy on held-out digits[/]")
    console.print(comparison_table(outcome))
    model, lineage = outcome.model, outcome.lineage
    if model:
        console.print(f"\nmodel [bold]{MODEL}:best[/] is version {model['version']}, and comes from")
        console.print(f"  run   {short(lineage.get('run', ''))}  [dim]step {model.get('step', '')}[/]")
        console.print(f"  code  sha256:{lineage.get('code_digest', '')[:16]}…")
        for name in lineage.get("inputs", []):
            console.print(f"  {'data' if 'digits-data' in name else 'from'}  {short(name)}")
    for fault in outcome.faults:
        console.print(f"[red]not as promised:[/] {fault}")
    if not outcome.faults:
        console.print("\n[green]All of it held.[/] Each curve is whole: no point lost, none twice.")
    first = outcome.jobs[0]["id"] if outcome.jobs else "ID"
    console.print("\nNext:")
    for command, meaning in (
        ("cairn ls", "the runs"),
        (f"cairn show {first}", "one of them, with its attempts and curves"),
        (f"cairn logs {first}", "what it printed"),
        ("cairn compare --experiment digits", "side by side"),
        ("cairn open", "the page, signed in"),
        ("cairn run -- python train.py", "your own training, from its folder"),
        ("cairn down", "stop the platform; `cairn up` goes on where it was"),
    ):
        console.print(f"  [bold]{command}[/]  [dim]{meaning}[/]", soft_wrap=True)
    console.print(f"\nThe page: [bold]{url}[/]")


def comparison_table(outcome: Outcome) -> Table:
    """Params, best accuracy, attempts and duration of each run; the best one marked."""
    attempts: Mapping[str, Any] = {job["id"]: job for job in outcome.jobs}
    rows = outcome.comparison.get("rows", [])
    best = max((metric_of(row, ACCURACY, "best") for row in rows), default=0.0)
    table = Table(box=None, pad_edge=False, header_style="bold")
    params = outcome.comparison.get("param_keys", [])
    for heading in ("run", *params, "accuracy", "loss", "attempts", "resumed", "duration"):
        table.add_column(heading, no_wrap=True)
    for row in rows:
        uid = row["run"].rpartition("/")[2]
        accuracy = metric_of(row, ACCURACY, "best")
        resumed = attempts.get(uid, {}).get("resumed_step")
        table.add_row(
            uid[:15],
            *(str(row.get("params", {}).get(key, "")) for key in params),
            f"[bold green]{accuracy:.4f}[/]" if accuracy == best else f"{accuracy:.4f}",
            f"{metric_of(row, LOSS, 'last'):.4f}",
            str(row.get("attempts", 0)),
            f"step {resumed}" if resumed else "",
            f"{row.get('duration', 0.0):.1f} s",
        )
    return table


def short(name: str) -> str:
    """A resource's name without its team, as people say it: ``digits-data:v1``."""
    return name.split("/", 3)[-1].replace("/versions/", ":v")


def metric_of(row: Mapping[str, Any], key: str, which: str) -> float:
    """A metric's ``last`` or ``best`` in a row of a comparison."""
    return float(row.get("metrics", {}).get(key, {}).get(which, 0.0))

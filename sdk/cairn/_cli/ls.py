"""`cairn ls`"""

from __future__ import annotations

import click
from rich.text import Text

from cairn._cli.looks import counts_text, records_table
from cairn._cli.records import STATES, listing
from cairn._cli.session import Session, common

ALIVE = ("PENDING", "ADMITTED", "LAUNCHING", "RUNNING", "RECOVERING", "PREEMPTING", "HELD")


@click.command()
@click.argument("expression", default="", metavar="[FILTER]")
@click.option("-e", "--experiment", default="", metavar="ID", help="Only this experiment.")
@click.option(
    "-s", "--state", "states", multiple=True, type=click.Choice(STATES, case_sensitive=False),
    help="Only this state; may be repeated.",
)  # fmt: skip
@click.option("-a", "--alive", is_flag=True, help="Only what is not finished.")
@click.option(
    "-n", "--limit", type=click.IntRange(1, 100_000), default=30, show_default=True, help="The newest N."
)
@common
def ls(
    session: Session, expression: str, experiment: str, states: tuple[str, ...], alive: bool, limit: int
) -> None:
    """List jobs and runs, newest first; with FILTER those runs that it holds for, such as
    `config.lr < 0.01 and metrics.acc > 0.9`, `group = "night"`, `"best" in tags`, `notes =~ "diverge"`."""
    wanted = (*states, *(ALIVE if alive else ()))
    records, missing = listing(
        session.client, states=wanted, experiment=experiment, expression=expression, limit=limit
    )
    for line in missing:
        session.say(Text(f"warning: {line}", style="yellow"))
    if session.as_json:
        session.emit([record.json() for record in records])
        return
    if not records:
        narrowed = wanted or experiment or expression
        what = "nothing runs or waits" if alive else "no such runs" if narrowed else "no runs yet"
        session.say(f"{what}; `cairn run -- python train.py` begins one")
        return
    session.out.print(records_table(records, width=session.out.width))
    if session.interactive:
        session.out.print(counts_text(records))
        if len(records) == limit:
            session.out.print(Text(f"the newest {limit}; -n N shows more", style="dim"))

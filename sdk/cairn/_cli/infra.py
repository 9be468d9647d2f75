"""`cairn infra`: what an admin asks of the places to run."""

from __future__ import annotations

import time

import click
from rich.text import Text

from cairn._cli.looks import plain_table
from cairn._cli.session import Session, common
from cairn._cli.text import age, clean, moment
from cairn._http import Json

_LOOK_SECONDS = 2.0


@click.group()
def infra() -> None:
    """Look after the places to run (admins)."""


@infra.command()
@click.option("--remove", is_flag=True, help="Take them away, and wait until they are gone.")
@click.option("--patience", default=120, metavar="SECONDS", show_default=True, help="How long to wait.")
@common
def orphans(session: Session, remove: bool, patience: int) -> int:
    """List clusters and processes of Cairn's that belong to no living attempt.

    Everything is found by asking the places themselves, not Cairn's own books. What is still being taken
    away after its attempt's end is shown as leaving and counts for nothing. The exit code is 1 where an
    orphan is (still) there, so that a cron job can watch over it.
    """
    found = session.client.orphans()
    if remove and any(map(_stays, found)):
        session.client.remove_orphans()
        found = _wait(session, patience)
    left = [orphan for orphan in found if _stays(orphan)]
    if session.as_json:
        session.emit(found)
    elif found:
        _show(session, found)
    else:
        session.say("no orphans: all that exists belongs to a living attempt")
    return 1 if left else 0


def _wait(session: Session, patience: int) -> list[Json]:
    deadline = time.monotonic() + patience
    while any(map(_stays, found := session.client.orphans())) and time.monotonic() < deadline:
        session.say(f"taking away {sum(map(_stays, found))} ...")
        time.sleep(_LOOK_SECONDS)
    return found


def _stays(orphan: Json) -> bool:
    return not orphan.get("leaving")


def _show(session: Session, found: list[Json]) -> None:
    table = plain_table()
    for title in ("POOL", "WHAT", "STATUS", "JOB", "AGE", "COST"):
        table.add_column(title, no_wrap=title != "WHAT")
    for orphan in found:
        cost = orphan.get("cost")
        status = "leaving" if orphan.get("leaving") else clean(str(orphan.get("status") or "-"))
        table.add_row(
            clean(str(orphan.get("pool", ""))).removeprefix("pools/"),
            Text(clean(str(orphan.get("display_name", ""))), "cyan"),
            Text(status, "dim" if orphan.get("leaving") else "red"),
            clean(str(orphan.get("job") or "")).rpartition("/")[2] or "unknown",
            age(moment(orphan.get("create_time"))) if orphan.get("create_time") else "-",
            "-" if cost is None else f"${float(cost):.2f}",
        )
    session.out.print(table)

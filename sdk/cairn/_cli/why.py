"""`cairn why`, `cairn queue`, `cairn what-if`"""

from __future__ import annotations

import click
from rich.table import Table
from rich.text import Text

from cairn._cli.find import ID, find_all
from cairn._cli.looks import plain_table
from cairn._cli.quota import supposed
from cairn._cli.session import Session, common
from cairn._cli.text import clean, clock, moment
from cairn._http import Json

_UNITS = {"gpu": "GPUs", "cpu": "cores", "mem": "MiB", "jobs": "jobs"}


@click.command(short_help="Why a job waits, and what would let it start.")
@click.argument("job", type=ID)
@common
def why(session: Session, job: str) -> None:
    """Why a job waits: the limit, who holds it, its position, when there will be room, and the smallest
    changes of each kind. Each of these was tried: with it alone, the job starts now."""
    (uid,) = find_all(session.client, (job,))
    found = session.client.explain(uid)
    if session.as_json:
        session.emit(found)
        return
    say_why(session, found)


def say_why(session: Session, found: Json) -> None:
    """Shows an explanation: of one that does not wait, a sentence."""
    session.out.print(Text(clean(str(found.get("sentence", ""))), style="bold"))
    if not found.get("code"):
        return
    unit = _UNITS.get(str(found.get("resource", "")), str(found.get("resource", "")))
    if found.get("path"):
        table = _table("NODE", "NOMINAL", "LIMIT", "USED")
        for level in found["path"]:
            limit = _amount(level["limit"], unit) if level.get("limit") is not None else "none"
            used = _amount(level.get("used"), unit)
            table.add_row(clean(level["node"]), _amount(level.get("nominal"), unit), limit, used)
        session.out.print(table)
    for one in found.get("holders", ()):
        who = clean(str(one.get("job") or "a job of another team").rpartition("/")[2])
        held = f"{_amount(one.get('amount'), unit)} held by {who} ({clean(one.get('node', ''))})"
        session.out.print(Text(held, style="dim"))
    session.out.print(f"position {found.get('position', 0)} of {found.get('waiting', 0)} that want the same")
    if found.get("eta"):
        when = clock(moment(found["eta"]))
        session.out.print(f"room at {when}, if nothing comes before it and all ends in its time")
    if found.get("changes"):
        session.out.print("It would start now", style="bold")
    for change in found.get("changes", ()):
        session.out.print(Text(f"  {clean(change['words'])}"))


@click.command(short_help="What waits, in its order, and why.")
@click.option("-n", "--limit", default=50, show_default=True, help="At most so many.")
@common
def queue(session: Session, limit: int) -> None:
    """The team's jobs that wait: by priority, then age, each with its reason."""
    jobs = list(session.client.jobs(states=("PENDING", "HELD"), limit=1000))
    jobs.sort(key=lambda job: (-int(job.get("priority", 0)), str(job.get("create_time", ""))))
    if session.as_json:
        session.emit(jobs[:limit])
        return
    table = _table("JOB", "NAME", "PRIORITY", "WHY")
    for job in jobs[:limit]:
        table.add_row(
            str(job.get("uid", ""))[:12],
            clean(str(job.get("display_name") or "")),
            str(job.get("priority", 0)),
            clean(str(job.get("reason") or "")),
        )
    session.out.print(table)


@click.command("what-if", short_help="Who would start or lose their place (admins).")
@click.option("--lose-pool", default="", metavar="POOL", help="As if this pool were gone.")
@click.option("--quota", metavar="FILE", help="As if this tree file ruled; `-` reads standard input.")
@common
def what_if(session: Session, lose_pool: str, quota: str | None) -> None:
    """Decide twice, on what there is and on what there would be, and show the difference."""
    if not lose_pool and quota is None:
        raise click.UsageError("say what is supposed: --lose-pool POOL, --quota FILE, or both")
    tree = supposed(session, quota)["tree"] if quota is not None else None
    found = session.client.what_if(lose_pool=lose_pool, tree=tree)
    if session.as_json:
        session.emit(found)
        return
    for name, words in (
        ("lost", "would lose their place"),
        ("evicted", "would be preempted"),
        ("waits", "would not start now"),
        ("starts", "would start now"),
    ):
        uids = found.get(name, [])
        session.out.print(f"{len(uids)} {words}{': ' if uids else ''}{', '.join(u[:12] for u in uids)}")


def _table(*titles: str) -> Table:
    table = plain_table()
    for title in titles:
        table.add_column(title)
    return table


def _amount(milli: object, unit: str) -> str:
    return f"{int(str(milli or 0)) / 1000:g} {unit}".strip()

"""`cairn hold`, `cairn release`, `cairn preempt`"""

from __future__ import annotations

from collections.abc import Callable

import click
from rich.text import Text

from cairn._cli.find import ID, find_all
from cairn._cli.looks import state_text
from cairn._cli.session import Session, common
from cairn._cli.text import clean
from cairn._http import Json

_REASON = click.option("-m", "--message", default="", metavar="TEXT", help="Why, for people who look.")


@click.command(short_help="Keep jobs out of the queue.")
@click.argument("jobs", type=ID, nargs=-1, required=True)
@_REASON
@click.option("--admin", is_flag=True, help="Only an admin can release them.")
@common
def hold(session: Session, jobs: tuple[str, ...], message: str, admin: bool) -> None:
    """Keep jobs out of the queue until `cairn release`. One that runs saves a checkpoint, if it can, and
    gives its place up first."""
    _each(session, jobs, lambda uid: session.client.hold(uid, reason=message, admin=admin))


@click.command(short_help="Put held jobs back into the queue.")
@click.argument("jobs", type=ID, nargs=-1, required=True)
@common
def release(session: Session, jobs: tuple[str, ...]) -> None:
    """Put held jobs back into the queue; those that ran before are the first of their class."""
    _each(session, jobs, lambda uid: session.client.release(uid))


@click.command(short_help="Take the place of running jobs (admins).")
@click.argument("jobs", type=ID, nargs=-1, required=True)
@_REASON
@common
def preempt(session: Session, jobs: tuple[str, ...], message: str) -> None:
    """Take the place of running jobs. Each has its grace to save a checkpoint, then waits as the first of its
    class, and goes on in the same run."""
    _each(session, jobs, lambda uid: session.client.preempt(uid, reason=message))


def _each(session: Session, jobs: tuple[str, ...], act: Callable[[str], Json]) -> None:
    done = []
    for uid in find_all(session.client, jobs):
        job = act(uid)
        done.append(job)
        if not session.as_json:
            session.out.print(_line(job))
    if session.as_json:
        session.emit(done)


def _line(job: Json) -> Text:
    text = Text(f"{str(job.get('uid', ''))[:12]}  ", style="cyan")
    text.append(clean(str(job.get("display_name") or "")) + "  ", style="default")
    text.append_text(state_text(str(job.get("state", ""))))
    reason = clean(str(job.get("reason") or ""))
    return text.append(f"  {reason}" if reason else "", style="dim")

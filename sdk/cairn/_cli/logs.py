"""`cairn logs`"""

from __future__ import annotations

import click

from cairn._cli.ending import say_ending
from cairn._cli.find import ID, find, newest
from cairn._cli.follow import Shown, follow, print_logs
from cairn._cli.session import Session, common
from cairn._cli.text import short


@click.command(short_help="Print what a run wrote; -f follows.")
@click.argument("run", type=ID, required=False)
@click.option("-f", "--follow", "following", is_flag=True, help="Go on until the run has ended.")
@click.option("--attempt", type=click.IntRange(1), default=None, help="Only this attempt's lines.")
@click.option("--rank", type=click.IntRange(0), default=None, help="Only this rank's lines.")
@click.option(
    "-n", "--tail", type=click.IntRange(1, 100_000), default=None, help="Begin with the last N lines."
)
@click.option("-t", "--times", is_flag=True, help="Each line with its time.")
@common
def logs(
    session: Session,
    run: str | None,
    following: bool,
    attempt: int | None,
    rank: int | None,
    tail: int | None,
    times: bool,
) -> None:
    """Print what a run wrote (the newest run, without RUN). With --json one object a line.

    Exits with 0 also where the run failed: the logs were shown.
    """
    uid = find(session.client, run) if run else newest(session.client)
    shown = Shown(attempt=attempt or 0, rank=rank, tail=tail or 0, times=times)
    if not following:
        print_logs(session, uid, shown)
        return
    try:
        record = follow(session, uid, shown)
    except KeyboardInterrupt:
        again = short(uid, None)
        session.say(f"\nno longer following; the run goes on: cairn logs -f {again}, cairn stop {again}")
        return
    if not session.as_json:
        say_ending(session, record)

"""`cairn logs`"""

from __future__ import annotations

import time

import click

from cairn._cli.ending import say_ending
from cairn._cli.errors import USAGE, CliError
from cairn._cli.find import ID, find, newest
from cairn._cli.follow import Shown, follow, print_logs
from cairn._cli.session import Session, common
from cairn._cli.text import ago, moment, short

STREAMS = ("stdout", "stderr", "platform", "launch")


@click.command(short_help="Print what a run wrote; -f follows.")
@click.argument("run", type=ID, required=False)
@click.option("-f", "--follow", "following", is_flag=True, help="Go on until the run has ended.")
@click.option("--attempt", type=click.IntRange(1), default=None, help="Only this attempt's lines.")
@click.option("--rank", type=click.IntRange(0), default=None, help="Only this rank's lines.")
@click.option(
    "-n", "--tail", type=click.IntRange(1, 100_000), default=None, help="Begin with the last N lines."
)
@click.option("-g", "--grep", default="", metavar="PATTERN", help="Only lines in which this (RE2) is found.")
@click.option("--since", default="", metavar="TIME", help="Only from then on: 10m, 2h, or a time (RFC 3339).")
@click.option("--stream", type=click.Choice(STREAMS), default=None, help="Only this stream's lines.")
@click.option("-t", "--times", is_flag=True, help="Each line with its time.")
@common
def logs(
    session: Session,
    run: str | None,
    following: bool,
    attempt: int | None,
    rank: int | None,
    tail: int | None,
    grep: str,
    since: str,
    stream: str | None,
    times: bool,
) -> None:
    """Print what a run wrote (the newest run, without RUN). With --json one object a line.

    Exits with 0 also where the run failed: the logs were shown.
    """
    uid = find(session.client, run) if run else newest(session.client)
    shown = Shown(
        attempt=attempt or 0, rank=rank, tail=tail or 0, times=times, grep=grep, since=_since(since),
        stream=stream or "",
    )  # fmt: skip
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


def _since(text: str) -> float:
    """Seconds since 1970 of a time, or of how long ago it was; 0 where none is given."""
    if not text:
        return 0.0
    seconds = ago(text)
    then = moment(text) if seconds is None else time.time() - seconds
    if then is None:
        raise CliError(
            f"--since takes 90s, 10m, 2h, 3d or a time such as 2026-01-31T12:00:00Z, not {text!r}", code=USAGE
        )
    return then

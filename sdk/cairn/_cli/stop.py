"""`cairn stop`"""

from __future__ import annotations

import click
from rich.text import Text

from cairn._cli.find import ID, find_all
from cairn._cli.looks import state_text
from cairn._cli.records import FINAL, listing
from cairn._cli.session import Session, common
from cairn._cli.text import clean
from cairn._http import ApiError


@click.command(short_help="Stop jobs.")
@click.argument("jobs", type=ID, nargs=-1)
@click.option("-e", "--experiment", default="", metavar="ID", help="All unfinished jobs of this experiment.")
@common
def stop(session: Session, jobs: tuple[str, ...], experiment: str) -> None:
    """Stop jobs: SIGTERM, their grace period, SIGKILL. A job that has ended already is left as it is."""
    if not jobs and not experiment:
        raise click.UsageError("name the jobs to stop, or --experiment")
    uids = find_all(session.client, jobs)
    if experiment:
        records, _ = listing(session.client, experiment=experiment, limit=1000)
        uids += [record.uid for record in records if not record.final and record.uid not in uids]
    stopped = []
    for uid in uids:
        try:
            job = session.client.cancel(uid)
        except ApiError as error:
            if error.reason != "JOB_ENDED":
                raise
            job = session.client.job(uid)
        stopped.append(job)
        if not session.as_json:
            session.out.print(_line(job))
    if session.as_json:
        session.emit(stopped)
    elif not uids:
        session.say("nothing to stop")


def _line(job: dict[str, object]) -> Text:
    state = str(job.get("state", ""))
    text = Text(f"{str(job.get('uid', ''))[:12]}  ", style="cyan")
    text.append(clean(str(job.get("display_name") or "")) + "  ", style="default")
    if state in FINAL:
        return text.append_text(state_text(state))
    return text.append("stopping", style="yellow")

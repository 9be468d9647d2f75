"""`cairn show`"""

from __future__ import annotations

import click
from rich.text import Text

from cairn._cli.errors import NOT_FOUND, CliError
from cairn._cli.find import ID, find, newest
from cairn._cli.records import SYSTEM, fetch, merge
from cairn._cli.session import Session, common
from cairn._cli.summary import (
    checkpoints_table,
    code_text,
    dropped_text,
    heading,
    last_lines,
    lost_text,
    metrics_table,
    origin_text,
    own_code,
    params_text,
    system_text,
)
from cairn._cli.text import clean, clean_line, short
from cairn._cli.timeline import timeline
from cairn._http import Json

CHECKPOINTS = 5


@click.command(short_help="Show one run: attempts, params, curves, checkpoints, code.")
@click.argument("run", type=ID, required=False)
@click.option("--task", "what", flag_value="task", help="Print its task file alone, to run it again.")
@click.option("--diff", "what", flag_value="diff", help="Print what was not committed, as a patch.")
@common
def show(session: Session, run: str | None, what: str | None) -> None:
    """Show one run (the newest, without RUN): attempts, params, curves, checkpoints, code."""
    client = session.client
    uid = find(client, run) if run else newest(client)
    job, found = fetch(client, uid)
    if what:
        _print_text(job, found, what)
        return
    series = client.series([uid], max_buckets=60) if found else []
    checkpoints = client.checkpoints(uid) if found else []
    moments = client.timeline(uid) if job else []
    if session.as_json:
        record = merge(job, found).json()
        session.emit({**record, "job": job, "run": found, "series": series, "checkpoints": checkpoints,
                      "timeline": moments})  # fmt: skip
        return
    _print_page(session, job, found, series, checkpoints, moments)


def _print_page(
    session: Session, job: Json | None, run: Json | None, series: list[Json], checkpoints: list[Json],
    moments: list[Json],
) -> None:  # fmt: skip
    record = merge(job, run)
    out = session.out
    out.print(heading(record))
    if origin := (run or {}).get("origin") or (job or {}).get("origin"):
        out.print(origin_text(origin))
    if record.notes:
        _section(session, "Notes")
        out.print(Text("\n".join(f"  {line}" for line in record.notes.splitlines())))
    _section(session, "Timeline")
    out.print(timeline(run, moments))
    if lines := last_lines(job, run):
        _section(session, "Last lines")
        for line in lines:
            out.print(Text(f"  {line}", "red" if record.state == "FAILED" else "dim"))
    if record.params:
        _section(session, "Params")
        out.print(params_text(record.params))
    summary = (run or {}).get("summary") or {}
    if not all(key.startswith(SYSTEM) for key in summary):
        _section(session, "Metrics")
        out.print(metrics_table(series, summary))
    if lost := lost_text(run or {}):
        out.print(lost)
    if dropped := dropped_text(run or {}):
        out.print(dropped)
    if any(key.startswith(SYSTEM) for key in summary):
        _section(session, "System (cores, GiB, MiB/s, %)")
        out.print(system_text(summary))
    if checkpoints:
        _section(session, f"Checkpoints ({len(checkpoints)})")
        out.print(checkpoints_table(checkpoints[:CHECKPOINTS]))
    command = str((job or {}).get("spec", {}).get("run") or (run or {}).get("command") or "")
    code = (job or {}).get("code") or (run or {}).get("code") or own_code(run or {})
    if command or code:
        _section(session, "Code")
        for line in command.strip().splitlines()[:6]:
            out.print(Text(f"  $ {clean_line(line, colors=False)}"))
        if code.get("digest") or code.get("git_commit"):
            out.print(code_text(code))
    if job and session.interactive:
        _section(session, "Again")
        commit = clean(str(code.get("git_commit") or ""))[:12]
        uid = short(record.uid, None)
        again = f"cairn show {uid} --task > task.yaml && cairn run task.yaml"
        out.print(
            Text(f"  cairn rerun {uid}" + (f"   cairn resume {uid}" if checkpoints else ""), style="dim")
        )
        out.print(Text("  " + (f"git checkout {commit} && " if commit else "") + again, style="dim"))


def _section(session: Session, title: str) -> None:
    session.out.print()
    session.out.print(Text(title, style="bold"))


def _print_text(job: Json | None, run: Json | None, what: str) -> None:
    if what == "task":
        text = str((job or {}).get("spec", {}).get("task") or "")
    else:
        text = str(((job or {}).get("code") or (run or {}).get("code") or {}).get("git_diff") or "")
    if not text and what == "task":
        raise CliError("this run has no task file: no job ran it", code=NOT_FOUND)
    click.echo("\n".join(clean_line(line, colors=False) for line in text.split("\n")), nl=False)

"""`cairn checkpoints`, `cairn resume`, `cairn rerun`"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.text import Text

from cairn._cli import secrets
from cairn._cli.errors import NOT_FOUND, USAGE, CliError
from cairn._cli.find import ID, find
from cairn._cli.records import fetch
from cairn._cli.run import follow_queued, say_queued
from cairn._cli.session import Session, common
from cairn._cli.summary import checkpoints_table
from cairn._cli.tasks import parse_envs
from cairn._cli.text import clean
from cairn._http import Json

F = TypeVar("F", bound=Callable[..., Any])
_SHOWN = 12


@click.command(short_help="List a job's checkpoints, and the one that a restart would take.")
@click.argument("job", type=ID)
@common
def checkpoints(session: Session, job: str) -> None:
    """List the checkpoints that a job committed, newest first: a restart goes on from the first."""
    uid = find(session.client, job)
    found = session.client.checkpoints(uid)
    begun = _begun_with(session, uid)
    if session.as_json:
        taken = str(found[0]["name"]) if found else begun
        session.emit({"checkpoints": found, "restart": taken or None})
        return
    if found:
        session.out.print(checkpoints_table(found, restart=0))
    elif begun:
        session.say(f"none of its own yet; a restart begins with {clean(begun)}")
    else:
        session.say("there are none yet; cairn.save_checkpoint makes one")


def _order(function: F) -> F:
    """What both commands take beside the job."""
    for option in (
        click.option("-f/-d", "--follow/--detach", "following", default=False, help="Show its output."),
        click.option("--secret-file", type=click.Path(path_type=Path), default=None, metavar="FILE"),
        click.option("--secret", multiple=True, metavar="NAME[=@FILE]", help="A secret's value, once more."),
        click.option("-n", "--name", default="", help="For the list; else as the other job is called."),
        click.option("--set", "changes", multiple=True, metavar="K=V", help="A variable's or param's value."),
    ):
        function = option(function)
    return function


@click.command(short_help="Go on from a checkpoint of a job, in a new run.")
@click.argument("job", type=ID)
@click.option("--checkpoint", default="", metavar="STEP", help="Its step (or v3); else the last one.")
@_order
@common
@click.pass_context
def resume(
    ctx: click.Context, /, session: Session, job: str, checkpoint: str, **options: Any
) -> None:  # fmt: skip
    """Go on from a checkpoint of JOB in a new job, with its code, variables and environment.

    \b
    cairn resume 01j9zk3m --set lr=1e-4
    cairn resume 01j9zk3m --checkpoint 4000

    The program has to ask for it: cairn.latest_checkpoint().
    """
    uid = find(session.client, job)
    version = _chosen(session, uid, checkpoint)

    def queue(**order: Any) -> Json:
        return session.client.resume(uid, version, **order)

    _queue(ctx, session, uid, queue, **options)


@click.command(short_help="Run a job again: same code, variables, environment, inputs.")
@click.argument("job", type=ID)
@_order
@common
@click.pass_context
def rerun(ctx: click.Context, /, session: Session, job: str, **options: Any) -> None:
    """Run JOB again as it was: its code, variables and environment, and of each artifact that it read the
    very version that it read, whatever its aliases name by now."""
    uid = find(session.client, job)

    def queue(**order: Any) -> Json:
        return session.client.rerun(uid, **order)

    _queue(ctx, session, uid, queue, **options)


def _queue(
    ctx: click.Context, session: Session, uid: str, queue: Callable[..., Json], *, changes: Sequence[str],
    name: str, secret: tuple[str, ...], secret_file: Path | None, following: bool,
) -> None:  # fmt: skip
    envs = parse_envs(changes, "--set")
    source, run = fetch(session.client, uid)
    if source is None:
        raise CliError(f"run {uid[:12]} has no job: nothing can run it again", code=NOT_FOUND)
    spec = source.get("spec", {})
    known = {**spec.get("envs", {}), **spec.get("params", {}), **(run or {}).get("params", {})}
    if unknown := [key for key in envs if key not in known]:
        has = ", ".join(sorted(map(clean, known))[:_SHOWN]) or "none"
        raise CliError(f"--set {clean(unknown[0])}: the job has no such variable or param", code=USAGE,
                       hint=f"it has {has}")  # fmt: skip
    values = secrets.complete({"secrets": list(spec.get("secrets", []))}, secrets.given(secret, secret_file))
    made = queue(envs=envs, name=name, secrets=values)
    if following:
        follow_queued(ctx, session, str(made["uid"]))
    elif session.as_json:
        session.emit(made)
    else:
        say_queued(session, made)
        origin = made.get("origin", {})
        whence = str(origin.get("checkpoint") or "").split("/artifacts/")[-1].replace("/versions/", ":v")
        session.say(Text(f"  from {clean(whence) or uid[:12]}", "dim"))


def _chosen(session: Session, uid: str, wanted: str) -> str:
    """The name of the checkpoint at a step (empty: the last one). Raises `CliError`."""
    found = session.client.checkpoints(uid)
    if not wanted:
        last = str(found[0]["name"]) if found else _begun_with(session, uid)
        if not last:
            raise CliError(f"job {uid[:12]} has committed no checkpoint", code=NOT_FOUND,
                           hint=f"cairn rerun {uid[:12]} starts it from the beginning")  # fmt: skip
        return last
    for each in found:
        if wanted in (str(each.get("step", "")), f"v{each.get('version')}"):
            return str(each["name"])
    steps = ", ".join(str(each.get("step", "?")) for each in found[:_SHOWN]) or "none"
    raise CliError(f"job {uid[:12]} has no checkpoint at {clean(wanted)}; it has {steps}", code=NOT_FOUND)


def _begun_with(session: Session, uid: str) -> str:
    """The checkpoint that a resumed run began with; empty where it was none."""
    job, run = fetch(session.client, uid)
    return str((job or run or {}).get("origin", {}).get("checkpoint") or "")

"""`cairn run`"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
from rich.status import Status
from rich.text import Text

from cairn._cli import repository, secrets
from cairn._cli.dry import say_dry
from cairn._cli.ending import say_ending
from cairn._cli.errors import FAILED
from cairn._cli.follow import Shown, follow
from cairn._cli.mounts import Mount
from cairn._cli.session import Session, common
from cairn._cli.tasks import Task, Wishes, from_command, from_file, parse_envs
from cairn._cli.text import clean, plain, short, size
from cairn._cli.watch import watch_until_final
from cairn._code import pack
from cairn._http import Json

_COMMAND = "cairn.command"


class RunCommand(click.Command):
    """Takes what stands behind `--` aside: none of it is ours, also where it looks like an option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if "--" in args:
            place = args.index("--")
            ctx.meta[_COMMAND] = args[place + 1 :]
            args = args[:place]
        given = [arg for arg in args if not arg.startswith("-")]
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            if not given or given[0].endswith((".yaml", ".yml")) or _COMMAND in ctx.meta:
                raise
            hint = f"To run a command, put it behind `--`: cairn run -- {given[0]} ..."
            raise click.UsageError(f"{error.message}\n{hint}", ctx) from None


@click.command(cls=RunCommand, options_metavar="[OPTIONS]", short_help="Queue a task file, or a command.")
@click.argument(
    "task", required=False, type=click.Path(path_type=Path), metavar="[TASK.yaml | -- COMMAND...]"
)
@click.option("-n", "--name", default="", help="A name for people.")
@click.option("-e", "--experiment", default="", metavar="ID", help="The experiment that it belongs to.")
@click.option(
    "--env", "envs", multiple=True, metavar="K=V", help="An environment variable; K alone takes yours."
)
@click.option(
    "--secret",
    "secret",
    multiple=True,
    metavar="NAME[=@FILE]",
    help="A secret variable: yours, or what `cairn secret set` keeps; NAME=- reads stdin.",
)
@click.option(
    "--secret-file",
    default=None,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Secrets, NAME=VALUE a line.",
)
@click.option("--infra", default="", metavar="WHERE", help="local, slurm/NAME, or what SkyPilot reaches.")
@click.option("--cpus", default="", metavar="N", help="CPU cores, also 0.5.")
@click.option("--gpus", default="", metavar="N", help="GPUs: 2, or A100:2.")
@click.option("--memory", default="", metavar="GB", help="Memory.")
@click.option("--priority", type=click.IntRange(-1000, 1000), default=None, help="Higher goes first.")
@click.option(
    "--after",
    multiple=True,
    metavar="JOB[:any]",
    help="Start once this job or sweep has succeeded; `:any`: ended.",
)
@click.option("--retries", type=click.IntRange(0, 100), default=None, help="Further attempts after a fault.")
@click.option("--max-runtime", default="", metavar="TIME", help="Such as 2h or 1d 12h.")
@click.option("--workdir", default=None, metavar="DIR", help="The folder to take along.")
@click.option(
    "-r", "--requirements", default="", metavar="FILE", help="Run with these packages, installed once."
)
@click.option("-f/-d", "--follow/--detach", "following", default=False, help="Show the output until it ends.")
@click.option("--dry-run", is_flag=True, help="Check everything, queue nothing.")
@common
@click.pass_context
def run(
    ctx: click.Context,
    /,
    session: Session,
    task: Path | None,
    name: str,
    envs: tuple[str, ...],
    secret: tuple[str, ...],
    secret_file: Path | None,
    following: bool,
    dry_run: bool,
    **options: Any,
) -> None:
    """Queue a SkyPilot task file, or any command, and say what to type next.

    \b
    cairn run task.yaml --env lr=0.1
    cairn run --gpus 1 -f -- python train.py --lr 3e-4
    cairn run -r requirements.txt -- python train.py
    cairn run eval.yaml --after train

    The working directory goes along (the file's `workdir`; the current folder for a command), without what
    .gitignore names. With --follow the exit code is 1 where the job does not succeed.
    """
    wishes = Wishes(envs=parse_envs(envs), secrets=secrets.given(secret, secret_file), **options)
    order = _order(ctx, task, wishes)
    made = _submit(session, order, name, dry_run)
    if dry_run:
        session.emit(made) if session.as_json else say_dry(session, order, made)
        return
    if order.sweep:
        _sweep_queued(ctx, session, made, following)
        return
    uid = str(made["uid"])
    if not following:
        session.emit(made) if session.as_json else say_queued(session, made)
        return
    follow_queued(ctx, session, uid)


def _order(ctx: click.Context, task: Path | None, wishes: Wishes) -> Task:
    command = ctx.meta.get(_COMMAND)
    if command and task is not None:
        raise click.UsageError("give a task file, or a command after `--`, not both")
    if command:
        return from_command(command, wishes)
    if task is None:
        raise click.UsageError("give a task file, or a command: cairn run -- python train.py")

    def fetch(url: str, ref: str) -> Path:
        folder = ctx.with_resource(TemporaryDirectory(prefix="cairn-workdir-"))
        return repository.fetch(url, ref, Path(folder))

    return from_file(task, wishes, fetch=fetch)


def _submit(session: Session, order: Task, name: str, dry_run: bool) -> Json:
    client = session.client
    code = None if order.workdir is None else pack_and_send(session, order.workdir, upload=not dry_run)
    brought = [_bring(session, mount, upload=not dry_run) for mount in order.mounts]
    submit = client.submit_sweep if order.sweep else client.submit
    with _status(session, "checking" if dry_run else "queueing"):
        made = submit(
            order.text, code=code, name=name, validate_only=dry_run, secrets=order.secrets, mounts=brought
        )
        if dry_run:
            plan = client.plan(order.text, code=code, secrets=order.secrets, mounts=brought)
            made |= {key: plan[key] for key in ("placements", "outlook") if key in plan}
        return made


def _bring(session: Session, mount: Mount, *, upload: bool) -> Json:
    """What `file_mounts` has here, as the API names it."""
    with _status(session, f"packing {mount.source}"):
        bundle = mount.pack()
    try:
        if upload:
            with session.transfer(f"sending {mount.target}") as bar:
                session.client.upload_code(bundle, progress=bar)
        return mount.named(bundle)
    finally:
        bundle.path.unlink(missing_ok=True)


def pack_and_send(session: Session, folder: Path, *, upload: bool = True) -> Json:
    """A folder as the code of a job."""
    with _status(session, f"packing {folder}"):
        bundle = pack(folder)
    try:
        if not upload:
            return bundle.code()
        with session.transfer(f"sending {_files(bundle.files)}") as bar:
            code = session.client.upload_code(bundle, progress=bar)
        if not session.as_json:
            session.say(
                Text(f"code  {_files(bundle.files)}, {size(bundle.size)} packed, {bundle.digest[:12]}", "dim")
            )
        return code
    finally:
        bundle.path.unlink(missing_ok=True)


def say_queued(session: Session, job: Json) -> None:
    """A job is queued, and what to type next."""
    uid = short(str(job["uid"]), [])
    text = Text("✓ ", style="green").append("queued ", style="default")
    text.append(uid, style="cyan").append(
        f"  {clean(str(job.get('display_name') or ''))}", style="bold default"
    )
    session.out.print(text)
    if session.interactive:
        for command, what in (
            (f"cairn logs -f {uid}", "follow its output"),
            (f"cairn show {uid}", "its state, curves and checkpoints"),
            (f"cairn stop {uid}", "stop it"),
        ):
            session.out.print(Text(f"  {command:<28}", style="bold").append(what, style="not bold dim"))


def _sweep_queued(ctx: click.Context, session: Session, sweep: Json, following: bool) -> None:
    jobs = sweep.get("jobs", [])
    experiment = str(sweep.get("experiment") or "default").rsplit("/", 1)[-1]
    if session.as_json and not following:
        session.emit(sweep)
        return
    uids = [str(job["uid"]) for job in jobs]
    if not session.as_json:
        session.out.print(Text("✓ ", style="green").append(f"queued {len(jobs)} jobs", style="default"))
        for job in jobs:
            params = "  ".join(
                f"{clean(k)}={plain(v)}" for k, v in job.get("spec", {}).get("params", {}).items()
            )
            session.out.print(
                Text(f"  {short(str(job['uid']), uids)}  ", style="cyan").append(params, "default")
            )
    if following:
        records = watch_until_final(session, set(uids))
        ctx.exit(0 if all(record.state == "SUCCEEDED" for record in records) else FAILED)
    if session.interactive:
        for command, what in (
            ("cairn watch", "see them go"), (f"cairn compare -e {clean(experiment)}", "side by side"),
        ):  # fmt: skip
            session.out.print(Text(f"  {command:<28}", style="bold").append(what, style="not bold dim"))


def follow_queued(ctx: click.Context, session: Session, uid: str) -> None:
    """Shows a job's output until it ends, and exits with what came of it."""
    if not session.as_json:
        session.say(Text(f"queued {uid[:12]}; Ctrl-C stops following, not the job", style="dim"))
    try:
        record = follow(session, uid, Shown(aside=session.as_json))
    except KeyboardInterrupt:
        session.say(f"\nno longer following; the job goes on: cairn logs -f {short(uid, [])}")
        ctx.exit(130)
    if session.as_json:
        session.emit(record.json())
    else:
        say_ending(session, record)
    ctx.exit(0 if record.state == "SUCCEEDED" else FAILED)


def _files(count: int) -> str:
    return "1 file" if count == 1 else f"{count} files"


def _status(session: Session, text: str) -> Status:
    """A spinner on a terminal; elsewhere nothing is seen of it."""
    return session.err.status(text)

"""`cairn notebook`, `cairn code` and `cairn serve-model`: servers in jobs, brought here."""

from __future__ import annotations

import json
import re
import webbrowser
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from cairn._cli.attach import attach
from cairn._cli.errors import USAGE, CliError
from cairn._cli.find import ID, find
from cairn._cli.forward import Ports, run_forwards
from cairn._cli.records import FINAL
from cairn._cli.run import pack_and_send
from cairn._cli.session import Session, common
from cairn._cli.tasks import gpus_wanted, parse_envs, to_yaml, workdir_of
from cairn._recipes import task as recipes
from cairn.scheduler.v1 import attach_pb2 as pb

F = TypeVar("F", bound=Callable[..., Any])
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_SPAN = re.compile(r"(\d+)([smhd])?")


def _options(function: F) -> F:
    """Those that all interactive jobs have."""
    for option in reversed(
        (
            click.option("--gpus", default="", metavar="N", help="GPUs: 1, or A100:1."),
            click.option("--cpus", default="", metavar="N", help="CPU cores, also 0.5."),
            click.option("--memory", default="", metavar="GB", help="Memory."),
            click.option("--env", "envs", multiple=True, metavar="K=V", help="An environment variable."),
            click.option("-e", "--experiment", default="", metavar="ID", help="Where it is listed."),
            click.option("--idle", default="1h", metavar="TIME", show_default=True, help="Unused, it stops."),
            click.option(
                "--max-runtime", default="12h", metavar="TIME", show_default=True, help="Then it stops."
            ),
            click.option("--port", type=click.IntRange(0, 65535), default=None, help="The port here."),
            click.option("--open/--no-open", "opening", default=True, help="Open a browser."),
            click.option("--show", is_flag=True, help="Print the task file, queue nothing."),
        )
    ):
        function = option(function)
    return function


@click.command(short_help="JupyterLab in a job, in your browser.")
@click.argument("job", type=ID, required=False)
@click.option("--workdir", default=None, metavar="DIR", help="A folder to take along.")
@_options
@common
def notebook(session: Session, job: str | None, workdir: str | None, **options: Any) -> None:
    """Start JupyterLab in a job and bring it here, or come back to that of a JOB.

    \b
    cairn notebook --gpus 1
    cairn notebook 01k3

    It listens on its node's loopback alone, behind a secret of its own, and is reached through the platform.
    Ctrl-C leaves it; it stops by itself when it is not used, or by `cairn stop`.
    """
    _interactive(session, job, recipes.notebook(_wanted("notebook", options)), options, workdir=workdir)


@click.command(short_help="VS Code in a job, in your browser.")
@click.argument("job", type=ID, required=False)
@click.option("--workdir", default=None, metavar="DIR", help="A folder to take along.")
@_options
@common
def code(session: Session, job: str | None, workdir: str | None, **options: Any) -> None:
    """Start code-server or openvscode-server in a job and bring it here, or come back to that of a JOB.

    One of them is to be installed where the job runs; otherwise the job says how.
    """
    _interactive(session, job, recipes.code(_wanted("code", options)), options, workdir=workdir)


@click.command("serve-model", short_help="A language model in a job, behind an OpenAI API.")
@click.argument("model")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[-- VLLM ARGUMENTS...]")
@_options
@common
def serve_model(session: Session, model: str, arguments: tuple[str, ...], **options: Any) -> None:
    """Serve MODEL by vLLM in a job and bring its API here.

    \b
    cairn serve-model Qwen/Qwen3-0.6B --gpus 1 -- --max-model-len 8192
    cairn serve-model Qwen/Qwen3-0.6B --show > serve.yaml

    Needs a pool with GPUs. Ctrl-C leaves it; it stops when nobody was connected for --idle.
    """
    options["gpus"] = options["gpus"] or "1"
    made = recipes.model(_wanted("serve-model", options), name=model, arguments=list(arguments))
    if not options["show"]:
        _need_gpus(session)
    options["opening"] = False
    _interactive(session, None, made, options, workdir=None)


def _interactive(
    session: Session, job: str | None, task: dict[str, Any], options: dict[str, Any], *, workdir: str | None
) -> None:
    if options["show"]:
        click.echo(to_yaml(task if workdir is None else {"workdir": workdir, **task}), nl=False)
        return
    uid = find(session.client, job) if job else _submit(session, task, workdir)
    _wait(session, uid)
    door = _door(session, uid)
    ports = [Ports(int(door["port"]), options["port"])]

    def opened(local: Sequence[int]) -> None:
        url = f"http://127.0.0.1:{local[0]}{door['path']}"
        if session.as_json:
            click.echo(json.dumps({"job": uid, "url": url, **door["words"]}))
            return
        session.out.print(url, soft_wrap=True)
        for name, value in door["words"].items():
            session.out.print(f"{name}: {value}", soft_wrap=True)
        session.say(f"Ctrl-C leaves it; `cairn stop {uid[:12]}` stops it")
        if options["opening"] and session.interactive:
            webbrowser.open(url)

    run_forwards(session, uid, rank=0, ports=ports, opened=opened)


def _wanted(name: str, options: dict[str, Any]) -> recipes.Wanted:
    return recipes.Wanted(
        name=name, idle=_seconds(options["idle"]), max_runtime=options["max_runtime"], cpus=options["cpus"],
        memory=options["memory"], accelerators=gpus_wanted(options["gpus"]), envs=parse_envs(options["envs"]),
        experiment=options["experiment"],
    )  # fmt: skip


def _submit(session: Session, task: dict[str, Any], workdir: str | None) -> str:
    client = session.client
    sent = None if workdir is None else pack_and_send(session, workdir_of(workdir))
    uid = str(client.submit(to_yaml(task), code=sent, name=str(task["name"]))["uid"])
    session.say(f"queued {uid[:12]}; `cairn logs -f {uid[:12]}` shows how it comes up")
    return uid


def _wait(session: Session, uid: str, *, running: bool = True) -> None:
    """Returns once its command is `running`. Raises CliError once it never will."""
    client = session.patient_client()
    with session.err.status("waiting for a place") as status:
        for event in client.events(job=uid):
            if event.type in ("open", "heartbeat") or event.type.startswith("job."):
                job = client.job(uid)
                if running and job["state"] == "RUNNING":
                    return
                _hold_alive(job)
                status.update(f"{str(job['state']).lower()} {job.get('reason') or ''}".strip())


def _hold_alive(job: dict[str, Any]) -> None:
    if job["state"] in FINAL:
        raise CliError(
            f"job {job['uid'][:12]} has ended as {job['state']}: {job.get('message') or 'it ended well'}",
            hint=f"all it said: cairn logs {job['uid'][:12]}",
        )


def _door(session: Session, uid: str) -> dict[str, Any]:
    """Where its server listens and what opens it: asked in the job itself, once it answers."""
    written = bytearray()

    def keep(descriptor: int, data: bytes) -> None:
        if descriptor == 1:
            written.extend(data)

    command = pb.Command(argv=["python", "-m", "cairn._recipes", "ready"])
    with session.err.status("waiting for the server"):
        try:
            end = attach(session.client, uid, command=command, stdin=False, write=keep)
        except CliError as error:
            if getattr(error.__cause__, "reason", "") == "JOB_ENDED":
                _wait(session, uid, running=False)
            raise
    if end.code:
        raise CliError(f"the server in job {uid[:12]} did not come up", hint=f"cairn logs {uid[:12]}")
    return dict(json.loads(written))


def _need_gpus(session: Session) -> None:
    pools = session.client.pools()
    if not any(int(pool.get("capacity", {}).get("gpus", 0)) for pool in pools):
        names = ", ".join(str(pool.get("name", "")).rpartition("/")[2] for pool in pools)
        raise CliError(
            f"no pool has a GPU (there are: {names}), and vLLM needs one",
            hint="`--show` prints the task file, to run it elsewhere",
        )


def _seconds(text: str) -> int:
    match = _SPAN.fullmatch(text.strip())
    if match is None or not int(match[1]):
        raise CliError(f"--idle {text!r}: give a time such as 45m or 2h", code=USAGE)
    return int(match[1]) * _UNITS[match[2] or "s"]

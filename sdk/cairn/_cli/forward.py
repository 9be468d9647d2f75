"""`cairn forward`: ports of a job's node, here."""

from __future__ import annotations

import asyncio
import json
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass

import click

from cairn._attach.forward import Far, Forward
from cairn._cli.errors import USAGE, CliError
from cairn._cli.find import ID, find
from cairn._cli.records import FINAL
from cairn._cli.session import Session, common
from cairn._http import ApiError, Unreachable
from cairn.client import Client

Opened = Callable[[Sequence[int]], None]


@dataclass(frozen=True, slots=True)
class Ports:
    """A port of the node, and the one here: None takes the same, or another one if that is taken."""

    remote: int
    local: int | None = None


@click.command(short_help="Bring ports of a running job here.")
@click.argument("job", type=ID)
@click.argument("ports", nargs=-1, required=True, metavar="PORT[:LOCAL]...")
@click.option("--rank", type=click.IntRange(0), default=0, help="Of the node of this rank.")
@common
def forward(session: Session, job: str, ports: tuple[str, ...], rank: int) -> None:
    """Listen on 127.0.0.1 and lead each connection to a port of the node that the job runs on.

    \b
    cairn forward 01k3 8888          http://127.0.0.1:8888 is the job's port 8888
    cairn forward 01k3 6006:0 8888   any free port for 6006

    It ends with the job, or by Ctrl-C. With --json: one line with the ports, once they are open.
    """
    wanted = [parse(text) for text in ports]
    uid = find(session.client, job)

    def opened(local: Sequence[int]) -> None:
        rows = [{"local": here, "remote": each.remote} for here, each in zip(local, wanted, strict=True)]
        if session.as_json:
            click.echo(json.dumps({"job": uid, "rank": rank, "ports": rows}))
            return
        for row in rows:
            session.out.print(f"http://127.0.0.1:{row['local']}  is port {row['remote']} of job {uid[:12]}")
        session.say("Ctrl-C ends it")

    run_forwards(session, uid, rank=rank, ports=wanted, opened=opened)


def parse(text: str) -> Ports:
    """`8888` or `8888:local`. Raises CliError."""
    remote, colon, local = text.partition(":")
    try:
        made = Ports(int(remote), int(local) if colon else None)
    except ValueError:
        made = Ports(0)
    if not 0 < made.remote < 65536 or not 0 <= (made.local or 0) < 65536:
        raise CliError(f"{text!r} is no port; give 8888, or 8888:9000 for another one here", code=USAGE)
    return made


def run_forwards(session: Session, uid: str, *, rank: int, ports: Sequence[Ports], opened: Opened) -> None:
    """Leads connections until the job ends or Ctrl-C. Raises CliError."""
    client = session.client
    state = str(client.job(uid).get("state", ""))
    if state in FINAL:
        raise CliError(f"job {uid[:12]} has ended as {state}; nothing listens there any more")
    fars = [
        Far(client.url, client.token(), f"teams/{client.team}/jobs/{uid}", rank, each.remote)
        for each in ports
    ]
    if asyncio.run(_forward(session, uid, list(zip(fars, ports, strict=True)), opened)):
        session.say(f"job {uid[:12]} has ended")


async def _forward(session: Session, uid: str, ports: Sequence[tuple[Far, Ports]], opened: Opened) -> bool:
    """Whether it was the job that ended it."""
    loop = asyncio.get_running_loop()
    stop, ended = asyncio.Event(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop.set)
    async with AsyncExitStack() as stack:
        forwards = [await stack.enter_async_context(await _open(session, far, each)) for far, each in ports]
        stack.enter_context(_watching(session.patient_client(), uid, loop, ended))
        opened([each.port for each in forwards])
        events = [stop, ended, *(each.ended for each in forwards)]
        waits = [asyncio.create_task(event.wait()) for event in events]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
    return not stop.is_set()


async def _open(session: Session, far: Far, ports: Ports) -> Forward:
    """Listens already; to be entered again. Raises CliError."""
    tries = [far.port, 0] if ports.local is None else [ports.local]
    for local in tries:
        made = Forward(far, local=local, complain=lambda text: session.say(f"a connection failed: {text}"))
        try:
            await made.listen()
            return made
        except OSError as error:
            reason = error
    raise CliError(
        f"port {tries[0]} of this machine cannot be used: {reason.strerror}",
        hint=f"another one: {far.port}:0 takes any that is free",
    )


@contextmanager
def _watching(
    client: Client, uid: str, loop: asyncio.AbstractEventLoop, ended: asyncio.Event
) -> Iterator[None]:
    """Meanwhile: sets `ended` when the job has."""
    stop = threading.Event()

    def watch() -> None:
        try:
            for event in client.events(job=uid, types=["job.finished"], patience=float("inf"), stop=stop):
                if event.type != "heartbeat" and str(client.job(uid).get("state", "")) in FINAL:
                    loop.call_soon_threadsafe(ended.set)
                    return
        except (ApiError, Unreachable, RuntimeError):
            return  # connections themselves will tell

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        stop.set()

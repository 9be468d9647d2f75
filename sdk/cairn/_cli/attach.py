"""`cairn exec` and `cairn ssh`: commands inside a running job."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import Any

import click

from cairn._attach.line import ATTACH, PersonLine
from cairn._attach.person import Left, Write, converse, window_size, write_through
from cairn._cli.errors import CliError, tell
from cairn._cli.find import ID, find
from cairn._cli.session import Session, common
from cairn._http import ApiError, Unreachable
from cairn._stream import Stream
from cairn.client import Client
from cairn.scheduler.v1 import attach_pb2 as pb

OWN_ERRORS = 255
_MOST_JSON_BYTES = 16 * 1024 * 1024
_COMMAND = "cairn.command"


class BehindDashes(click.Command):
    """Takes what stands behind `--` aside: none of it is ours, also where it looks like an option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if "--" in args:
            place = args.index("--")
            ctx.meta[_COMMAND] = args[place + 1 :]
            args = args[:place]
        return super().parse_args(ctx, args)


@click.command("exec", cls=BehindDashes, short_help="Run a command inside a running job.")
@click.argument("job", type=ID)
@click.argument("words", nargs=-1, metavar="[--] COMMAND...")
@click.option("-t", "--terminal", is_flag=True, help="Give the command a terminal, as `cairn ssh` does.")
@click.option("-n", "--no-stdin", is_flag=True, help="Give the command no input; else it gets yours.")
@click.option("--rank", type=click.IntRange(0), default=0, help="On the node of this rank.")
@common
@click.pass_context
def exec_(
    ctx: click.Context, /, session: Session, job: str, words: tuple[str, ...], terminal: bool, no_stdin: bool,
    rank: int,
) -> None:  # fmt: skip
    """Run a command where a job runs: in its folder, with its environment, beside its own processes.

    \b
    cairn exec 01k3 -- nvidia-smi
    cairn exec 01k3 -- tar cz results > results.tar.gz

    The exit code is the command's (128 + n after signal n), or 255 where it could not be had. The first
    Ctrl-C interrupts the command, the second leaves it. With --json: exit code, stdout and stderr.
    """
    argv = [*words, *ctx.meta.get(_COMMAND, [])]
    if not argv:
        raise click.UsageError("name a command: cairn exec JOB -- nvidia-smi; for a shell: cairn ssh JOB")
    if terminal and session.as_json:
        raise click.UsageError("--json keeps stdout and stderr apart, a terminal does not: leave one out")
    uid = find(session.client, job)
    command = _command(argv, terminal=terminal)
    if session.as_json:
        ctx.exit(_as_json(session, uid, rank, command, stdin=not no_stdin))
    ctx.exit(attach(session.client, uid, rank=rank, command=command, stdin=not no_stdin).code)


@click.command(cls=BehindDashes, short_help="A shell inside a running job.")
@click.argument("job", type=ID)
@click.argument("words", nargs=-1, metavar="[[--] COMMAND...]")
@click.option("--rank", type=click.IntRange(0), default=0, help="On the node of this rank.")
@common
@click.pass_context
def ssh(ctx: click.Context, /, session: Session, job: str, words: tuple[str, ...], rank: int) -> None:
    """A shell on a terminal where a job runs, in its folder and with its environment.

    No network way to the node is needed, and no key: it goes through the platform. Enter, ~ and . leave it.
    The shell ends with the attempt.
    """
    if session.as_json:
        raise click.UsageError("a terminal has no JSON; `cairn exec JOB --json -- COMMAND` has")
    argv = [*words, *ctx.meta.get(_COMMAND, [])]
    uid = find(session.client, job)
    ctx.exit(attach(session.client, uid, rank=rank, command=_command(argv, terminal=True)).code)


def attach(
    client: Client, uid: str, *, rank: int = 0, command: pb.Command, stdin: bool = True,
    write: Write = write_through,
) -> pb.Exit:  # fmt: skip
    """Runs a command in a job, with our stdin and into `write`. Raises CliError (255) for what is not its."""
    name = f"teams/{client.team}/jobs/{uid}"
    start = pb.AttachStart(job=name, rank=rank, command=command)
    try:
        return asyncio.run(_attach(client, start, stdin=stdin, write=write))
    except Left as left:
        return pb.Exit(code=left.code)
    except (ApiError, Unreachable) as error:
        told = tell(error)
        raise CliError(told.message, code=OWN_ERRORS, hint=told.hint) from error


async def _attach(client: Client, start: pb.AttachStart, *, stdin: bool, write: Write) -> pb.Exit:
    async with await Stream.open(client.url, ATTACH, client.token()) as stream:
        line = await PersonLine.begin(stream, start)
        return await converse(line, terminal=start.command.terminal, stdin=stdin, write=write)


def _command(argv: Sequence[str], *, terminal: bool) -> pb.Command:
    if not terminal:
        return pb.Command(argv=argv)
    term = os.environ.get("TERM", "")
    return pb.Command(argv=argv, terminal=True, size=window_size(), term=term)


def _as_json(session: Session, uid: str, rank: int, command: pb.Command, *, stdin: bool) -> int:
    written: dict[int, bytearray] = {1: bytearray(), 2: bytearray()}

    def keep(descriptor: int, data: bytes) -> None:
        written[descriptor] += data[: max(0, _MOST_JSON_BYTES - len(written[descriptor]))]

    end = attach(session.client, uid, rank=rank, command=command, stdin=stdin, write=keep)
    told: dict[str, Any] = {"job": uid, "rank": rank, "exit_code": end.code, "signal": end.signal}
    texts = {name: bytes(written[number]).decode("utf-8", "replace") for name, number in _STREAMS}
    session.emit({**told, **texts})
    return end.code


_STREAMS = (("stdout", 1), ("stderr", 2))

"""The server's part of the command line. What a command needs is imported when it runs, not before."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from cairn_server.status import Status
    from cairn_server.up import Ready

_data = click.option("--data", metavar="DIR", help="The data folder [CAIRN_HOME; ~/.local/share/cairn].")
_json = click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout, nothing else there.")


def commands() -> list[click.Command]:
    """The commands, for the entry point group `cairn.commands`."""
    return [up, status, down, demo, serve, migrate, dead_letters, snapshot]


@click.command()
@_data
@click.option("--only", metavar="A,B", default="", help="Only these services (quota always comes along).")
@click.option("--port", type=click.IntRange(1, 65535), help="Port of the page and the HTTP API [7700].")
@click.option(
    "--skypilot",
    is_flag=True,
    envvar="CAIRN_SKYPILOT",
    help="Start SkyPilot too: jobs on clusters and clouds.",
)
@click.option("-d", "--detach", is_flag=True, help="Return when it is ready; it goes on in the background.")
@click.option("--ready-fd", type=int, hidden=True)
def up(
    data: str | None, only: str, port: int | None, skypilot: bool, detach: bool, ready_fd: int | None
) -> None:
    """Start the platform and keep it running; Ctrl-C stops it cleanly."""
    folder = _locate(data)
    names = _names(only)
    if skypilot and not os.environ.get("CAIRN_SKYPILOT_URL"):
        # Before anything is in the background: it takes a minute, once, and says so.
        _install_skypilot(folder)
    if detach:
        _up_detached(folder, only=names, port=port, skypilot=skypilot)
    else:
        _up_here(folder, only=names, port=port, skypilot=skypilot, ready_fd=ready_fd)


@click.group()
def snapshot() -> None:
    """What a scheduling decision was made from: saved here, decided again anywhere."""


@snapshot.command("save")
@click.argument("file", type=click.File("w"))
def snapshot_save(file: Any) -> None:
    """Save what the scheduler decides on now (admins). `-`: to stdout."""
    from cairn.client import Client

    file.write(Client().snapshot())


@snapshot.command("replay")
@click.argument("file", type=click.File("r"))
@_json
def snapshot_replay(file: Any, as_json: bool) -> None:
    """Decide a saved snapshot again, without any server: who starts, who is evicted for whom, who waits."""
    from cairn_server import replay

    try:
        told = replay.replay(file.read())
    except ValueError as error:
        raise click.ClickException(f"{file.name}: {error}") from None
    click.echo(json.dumps(told) if as_json else replay.words(told))


@click.command()
@_data
@_json
def status(data: str | None, as_json: bool) -> None:
    """Show what runs. Exit code 3 where nothing does."""
    from cairn_server import status as states

    found = states.read(_locate(data))
    found = replace(found, backlog=states.backlog(found))
    if as_json:
        click.echo(json.dumps(found.as_json()))
    else:
        _show_status(found)
    if found.state == "stopped":
        raise SystemExit(3)


@click.command()
@_data
def down(data: str | None) -> None:
    """Stop the platform. Jobs that run on this machine go on and are found again by the next `cairn up`."""
    from cairn_server import status as states

    folder = _locate(data)
    stopped = _explained(lambda: states.down(folder))
    click.echo(f"Cairn on {folder} is stopped." if stopped else f"Cairn does not run on {folder}.")


@click.command(add_help_option=False, context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def demo(arguments: tuple[str, ...]) -> None:
    """Four real trainings, one of them killed on the way, and what came of it."""
    from cairn_server.demo.command import demo as play

    play.main(args=list(arguments), prog_name="cairn demo")


@click.command()
@click.argument("service")
def serve(service: str) -> None:
    """Run one service here, by the settings in the environment (prefix CAIRN_)."""
    from cairn_common.settings import SettingsError
    from cairn_server.serve import serve as serve_here

    try:
        serve_here(service)
    except SettingsError as error:
        raise click.ClickException(str(error)) from None


@click.command()
@_data
def migrate(data: str | None) -> None:
    """Set up or update the database of CAIRN_POSTGRES_URL, and write the services' secrets."""
    from cairn_server import migrate as migrations

    folder = _locate(data)
    applied = _explained(lambda: asyncio.run(migrations.run(folder, os.environ)))
    for service, numbers in applied.items():
        click.echo(f"{service}: {len(numbers)} applied" if numbers else f"{service}: up to date")
    click.echo(f"Secrets of the services: {folder / 'env'}; token of the administrator: {folder / 'config'}")


@click.group("dead-letters")
def dead_letters() -> None:
    """Messages that a service could not apply."""


@dead_letters.command("list")
@_data
@_json
def list_dead_letters(data: str | None, as_json: bool) -> None:
    """Show them, oldest first."""
    from cairn_server import dead_letters as letters
    from cairn_server import reach

    found = _explained(lambda: asyncio.run(letters.find(reach.databases(_locate(data), os.environ))))
    if as_json:
        click.echo(json.dumps({"dead_letters": [letter.as_json() for letter in found]}))
        return
    for letter in found:
        click.echo(
            f"{letter.create_time:%Y-%m-%d %H:%M:%S}  {letter.id}  {letter.subject}\n    {letter.error}"
        )
    if not found:
        click.echo("No dead letters.")


@dead_letters.command("replay")
@click.argument("ids", nargs=-1, required=True)
@_data
def replay_dead_letters(ids: tuple[str, ...], data: str | None) -> None:
    """Tell messages again, named as `list` shows them."""
    from cairn_server import dead_letters as letters
    from cairn_server import reach

    folder = _locate(data)
    urls = _explained(lambda: reach.databases(folder, os.environ))
    bus, seed = _explained(lambda: reach.bus(folder, os.environ))
    found = _explained(lambda: asyncio.run(letters.find(urls, ids=ids)))
    missing = set(ids) - {letter.id for letter in found}
    if missing:
        raise click.ClickException(f"no such dead letter: {', '.join(sorted(missing))}")
    for letter in found:
        url = urls[letter.service]
        told = _explained(
            lambda letter=letter, url=url: asyncio.run(  # type: ignore[misc]
                letters.replay(letter, postgres_url=url, nats_url=bus, seed=seed)
            )
        )
        click.echo(
            f"{letter.id}: told again" if told else f"{letter.id}: the bus has it still; try in two minutes"
        )


def _install_skypilot(folder: Path) -> None:
    from cairn_server import home
    from cairn_server.backends import skypilot

    def install() -> None:
        root = home.prepare(folder).root
        skypilot.install(root / "skypilot", operator=os.environ, say=lambda text: click.echo(text, err=True))

    _explained(install)


def _up_here(
    folder: Path, *, only: tuple[str, ...], port: int | None, skypilot: bool, ready_fd: int | None
) -> None:
    from cairn_common.log import configure_logging
    from cairn_server import detach as pipes
    from cairn_server import up as platform

    configure_logging("server", os.environ.get("CAIRN_LOG_LEVEL", "INFO"))
    announce = _show_ready if ready_fd is None else lambda ready: pipes.tell(ready_fd, ready)
    request = platform.Request(
        data=folder, only=only, port=port, skypilot=skypilot, operator=dict(os.environ)
    )
    try:
        _explained(lambda: asyncio.run(platform.run(request, announce=announce)))
    except click.ClickException as error:
        if ready_fd is not None:
            pipes.tell_failure(ready_fd, error)
        raise


def _up_detached(folder: Path, *, only: tuple[str, ...], port: int | None, skypilot: bool) -> None:
    from cairn_server import detach as pipes

    arguments = (["--only", ",".join(only)] if only else []) + (["--port", str(port)] if port else [])
    arguments += ["--skypilot"] if skypilot else []
    _show_ready(_explained(lambda: pipes.start(folder, arguments)))


def _show_ready(ready: Ready) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(soft_wrap=True, highlight=False)
    console.print(Text("Cairn is up.", style="bold green"))
    console.print(Text.assemble("  URL    ", (ready.url, "bold")))
    console.print(Text.assemble("  token  ", (ready.token, "bold")))
    if ready.setup:
        console.print(Text.assemble("  first admin, once: ", (ready.setup, "bold")))
    console.print(Text(f"  data   {ready.data}", style="dim"))
    if ready.hint:
        console.print(Text(ready.hint, style="yellow"))


def _show_status(found: Status) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(soft_wrap=True, highlight=False)
    if found.state == "stopped":
        console.print(f"Cairn does not run on {found.data}.")
        return
    table = Table("process", "state", "pid", "port", "restarts", "memory", box=None)
    for process in found.processes:
        numbers = (process.pid, process.port, process.restarts or None)
        cells = ["" if number is None else str(number) for number in numbers]
        table.add_row(process.name, process.state, *cells, f"{process.memory / 2**20:.0f} MiB")
    console.print(f"Cairn is {found.state} on {found.data}  {found.url}")
    console.print(table)
    if found.skypilot:
        told = (
            "answers"
            if found.skypilot_answers
            else "does not answer: start it, or correct CAIRN_SKYPILOT_URL"
        )
        console.print(f"SkyPilot at {found.skypilot} {told}")
    for line in found.backlog.words() if found.backlog is not None else ():
        console.print(line)
    console.print(f"together {sum(process.memory for process in found.processes) / 2**20:.0f} MiB")


def _explained(work: Callable[[], Any]) -> Any:
    """Runs `work`; what a person can mend becomes one message and exit code 1."""
    from cairn_server.backends.program import SetupError
    from cairn_server.supervisor import StartError

    try:
        return work()
    except (SetupError, StartError) as error:
        raise click.ClickException(str(error)) from None
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        raise click.ClickException(f"{error.strerror or error}{where}") from None


def _names(only: str) -> tuple[str, ...]:
    from cairn_server import SERVICES

    names = tuple(name.strip() for name in only.split(",") if name.strip())
    unknown = [name for name in names if name not in SERVICES]
    if unknown:
        raise click.BadParameter(
            f"no service {', '.join(unknown)}; there are {', '.join(SERVICES)}", param_hint="--only"
        )
    return names


def _locate(data: str | None) -> Path:
    from cairn_server import home

    return home.locate(data, os.environ)

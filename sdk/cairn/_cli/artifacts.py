"""`cairn artifacts`"""

from __future__ import annotations

from pathlib import Path

import click
from rich.text import Text

from cairn._cli.errors import USAGE, CliError
from cairn._cli.looks import plain_table
from cairn._cli.results import exactly
from cairn._cli.retention import protect
from cairn._cli.session import Session, common
from cairn._cli.storage import show, show_version, verify
from cairn._cli.text import age, clean, moment, size
from cairn._http import Json
from cairn._publish import KINDS


@click.group()
def artifacts() -> None:
    """Files that runs made, in versions: list, fetch and keep them."""


@artifacts.command("ls")
@click.argument("name", required=False)
@click.option("-k", "--kind", type=click.Choice(KINDS), default=None, help="Only this kind.")
@common
def artifacts_ls(session: Session, name: str | None, kind: str | None) -> None:
    """List artifacts, the versions of one (NAME), or the files of a version (NAME:v3)."""
    if name and ":" in name:
        show_version(session, name)
        return
    if name:
        _versions(session, name)
        return
    found = list(session.client.artifacts(kind=kind or ""))
    hidden = 0
    if kind is None and not session.as_json:
        # Each run has its own; they would hide the rest.
        rest = [each for each in found if _kind(each) != "checkpoint"]
        found, hidden = rest, len(found) - len(rest)
    _artifacts(session, found)
    if hidden:
        of = f"{hidden:,} run{'s' if hidden > 1 else ''}"
        session.say(Text(f"and the checkpoints of {of}: -k checkpoint, cairn show RUN", style="dim"))


@artifacts.command("get")
@click.argument("ref", metavar="NAME[:ALIAS|:vN]")
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), default=None, help="The folder; default: its name."
)
@common
def artifacts_get(session: Session, ref: str, out: Path | None) -> None:
    """Fetch a version's files; each is verified, and what is there already is not fetched again."""
    name, _, wanted = ref.partition(":")
    folder = out or Path(name)
    with session.transfer(f"fetching {clean(ref)}") as bar:
        version = session.client.download(name, wanted or "latest", folder, progress=bar)
    entries = version.get("entries", [])
    if session.as_json:
        session.emit({"folder": str(folder), "version": version})
        return
    done = (
        f"{len(entries)} {'file' if len(entries) == 1 else 'files'}, {size(float(version.get('size') or 0))}"
    )
    text = Text("✓ ", "green").append(f"{clean(name)}:v{version.get('version')}", "cyan")
    session.out.print(text.append(f"  {done} in {folder}", "default"))


@artifacts.command("put")
@click.argument("path", type=click.Path(exists=True, path_type=Path))
@click.argument("name")
@click.option("-k", "--kind", type=click.Choice(KINDS), default="file", show_default=True)
@click.option("--alias", "aliases", multiple=True, help="Let this alias name it; can be given again.")
@common
def artifacts_put(session: Session, path: Path, name: str, kind: str, aliases: tuple[str, ...]) -> None:
    """Save a file or folder as the next version; only what the store lacks is sent."""
    with session.transfer(f"sending {clean(str(path))}") as bar:
        version = session.client.publish(path, name, kind=kind, aliases=aliases, progress=bar)
    _done(session, name, version, size(float(version.get("size") or 0)))


@artifacts.command("rm")
@click.argument("ref", metavar="NAME:VERSION")
@common
def artifacts_rm(session: Session, ref: str) -> None:
    """Delete a version; refused while an alias, a pin, a promoted model or a run holds it."""
    name, which = exactly(ref)
    _done(session, name, session.client.delete_version(name, which), "is deleted")


@artifacts.command("alias")
@click.argument("ref", metavar="NAME[:VERSION]")
@click.argument("alias", required=False)
@click.option("--remove", is_flag=True, help="Take the alias away instead.")
@common
def artifacts_alias(session: Session, ref: str, alias: str | None, remove: bool) -> None:
    """Let an alias name a version. Without an alias: show what the aliases named, and who moved them."""
    if alias is None and not remove:
        _moves(session, ref.partition(":")[0])
        return
    name, which = exactly(ref)
    if alias is None:
        raise CliError(
            "--remove needs the alias: cairn artifacts alias NAME:VERSION ALIAS --remove", code=USAGE
        )
    change = session.client.remove_alias if remove else session.client.set_alias
    said = f"is not {clean(alias)} any more" if remove else f"is {clean(alias)}"
    _done(session, name, change(name, which, alias), said)


@artifacts.command("pin")
@click.argument("ref", metavar="NAME:VERSION")
@common
def artifacts_pin(session: Session, ref: str) -> None:
    """Keep a version until it is unpinned."""
    name, which = exactly(ref)
    _done(session, name, session.client.pin_version(name, which), "is pinned")


@artifacts.command("unpin")
@click.argument("ref", metavar="NAME:VERSION")
@common
def artifacts_unpin(session: Session, ref: str) -> None:
    """Take the pin away."""
    name, which = exactly(ref)
    _done(session, name, session.client.pin_version(name, which, pinned=False), "is not pinned any more")


artifacts.add_command(protect)
artifacts.add_command(show)
artifacts.add_command(verify)


def _artifacts(session: Session, found: list[Json]) -> None:
    if session.as_json:
        session.emit(found)
        return
    if not found:
        session.say("there are none yet; cairn.save_artifact makes one")
        return
    table = plain_table()
    for title in ("NAME", "KIND", "VERSIONS", "ALIASES", "AGE"):
        table.add_column(title, no_wrap=True, justify="right" if title in ("VERSIONS", "AGE") else "left")
    for each in found:
        aliases = ", ".join(
            f"{clean(alias)} v{number}" for alias, number in sorted(each.get("aliases", {}).items())
        )
        table.add_row(
            Text(_last(each.get("name")), "cyan"),
            Text(_kind(each)),
            Text(str(each.get("latest_version", 0))),
            Text(aliases),
            Text(age(moment(each.get("create_time")))),
        )
    session.out.print(table)


def _versions(session: Session, name: str) -> None:
    found = list(session.client.versions(name, limit=200))
    if session.as_json:
        session.emit(found)
        return
    table = plain_table()
    for title in ("VERSION", "ALIASES", "SIZE", "FROM RUN", "STEP", "AGE"):
        table.add_column(title, no_wrap=True, justify="right" if title in ("SIZE", "STEP", "AGE") else "left")
    for each in found:
        table.add_row(
            Text(f"v{each.get('version')}", "cyan"),
            Text(", ".join(map(clean, each.get("aliases", []))), "green"),
            Text(size(float(each.get("size") or 0))),
            Text(_last(each.get("run"))[:12] or "-"),
            Text(str(each.get("step", "-"))),
            Text(age(moment(each.get("create_time")))),
        )
    session.out.print(table)
    if session.interactive and found:
        session.out.print(Text(f"cairn artifacts get {clean(name)}:v{found[0].get('version')}", style="dim"))


def _moves(session: Session, name: str) -> None:
    found = list(session.client.alias_moves(name, limit=200))
    if session.as_json:
        session.emit(found)
        return
    if not found:
        session.say(f"no alias of {clean(name)} was moved yet: cairn artifacts alias {clean(name)}:v1 ALIAS")
        return
    table = plain_table()
    for title in ("ALIAS", "VERSION", "BY", "AGE"):
        table.add_column(title, no_wrap=True, justify="right" if title == "AGE" else "left")
    for each in found:
        number = int(each.get("version") or 0)
        table.add_row(
            Text(clean(str(each.get("alias"))), "green"),
            Text(f"v{number}" if number else "removed", "cyan" if number else "dim"),
            Text(_last(each.get("actor"))),
            Text(age(moment(each.get("time")))),
        )
    session.out.print(table)


def _done(session: Session, name: str, version: Json, said: str) -> None:
    if session.as_json:
        session.emit(version)
        return
    text = Text("✓ ", "green").append(f"{clean(name)}:v{version.get('version')}", "cyan")
    session.out.print(text.append(f"  {said}", "default"))


def _last(name: object) -> str:
    return clean(str(name or "")).rsplit("/", 1)[-1]


def _kind(each: Json) -> str:
    return str(each.get("kind", "")).removeprefix("ARTIFACT_KIND_").lower()

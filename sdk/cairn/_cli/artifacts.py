"""`cairn artifacts`, `cairn models`"""

from __future__ import annotations

from pathlib import Path

import click
from rich.text import Text

from cairn._cli.looks import plain_table
from cairn._cli.session import Session, common
from cairn._cli.text import age, clean, moment, size
from cairn._http import Json
from cairn._publish import KINDS


@click.group()
def artifacts() -> None:
    """Files that runs made, in versions: list and fetch them."""


@artifacts.command("ls")
@click.argument("name", required=False)
@click.option("-k", "--kind", type=click.Choice(KINDS), default=None, help="Only this kind.")
@common
def artifacts_ls(session: Session, name: str | None, kind: str | None) -> None:
    """List artifacts, or the versions of one."""
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
        session.say(Text(f"and the checkpoints of {hidden} runs: -k checkpoint, cairn show RUN", style="dim"))


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


@click.command()
@click.argument("name", required=False)
@common
def models(session: Session, name: str | None) -> None:
    """List models, or the versions of one."""
    if name:
        _versions(session, name)
        return
    _artifacts(session, list(session.client.models()))


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


def _last(name: object) -> str:
    return clean(str(name or "")).rsplit("/", 1)[-1]


def _kind(each: Json) -> str:
    return str(each.get("kind", "")).removeprefix("ARTIFACT_KIND_").lower()

"""`cairn storage`, `cairn gc`, `cairn artifacts verify` and `show`: what lies in the store, and how it is."""

from __future__ import annotations

import click
from rich.text import Text

from cairn._cli.errors import CliError
from cairn._cli.looks import plain_table
from cairn._cli.session import Session, common
from cairn._cli.text import age, clean, moment, size
from cairn._http import Json

_SHOWN = 50
_BY = ("kind", "experiment", "user")


@click.group()
def storage() -> None:
    """How much the team keeps in the store."""


@storage.command("usage")
@click.option("--by", type=click.Choice(_BY), default="kind", show_default=True)
@common
def storage_usage(session: Session, by: str) -> None:
    """Show the bytes of versions, as they count them and as they lie in the store, each part once."""
    found = session.client.storage_usage(by)
    if session.as_json:
        session.emit(found)
        return
    table = plain_table()
    for title in (by.upper(), "VERSIONS", "LOGICAL", "STORED"):
        table.add_column(title, no_wrap=True, justify="left" if title == by.upper() else "right")
    for row in found.get("rows", []):
        table.add_row(Text(_key(row, by), "cyan"), *_amounts(row))
    table.add_row(Text("all together", "bold"), *_amounts(found.get("total", {})))
    session.out.print(table)
    beside = f"beside them: code of runs {size(float(found.get('code_size') or 0))}"
    idle = f"nobody's, until it is collected: {size(float(found.get('idle_size') or 0))}"
    session.say(Text(f"{beside}; {idle}", style="dim"))


@click.command("verify")
@click.argument("ref", metavar="NAME[:ALIAS|:vN]")
@common
def verify(session: Session, ref: str) -> None:
    """Let the store's bytes of a version be read again, and say which files are rotten."""
    name, _, wanted = ref.partition(":")
    with session.transfer(f"reading {clean(ref)}") as bar:
        rotten = session.client.verify_version(name, wanted or "latest", progress=bar)
    if session.as_json:
        session.emit({"rotten": rotten})
    for file in [] if session.as_json else rotten:
        what = "parts of it are gone" if file.get("missing") else "its bytes are not what they were"
        session.out.print(Text("✗ ", "red").append(f"{clean(str(file['path']))}: {what}", "default"))
    if rotten:
        raise CliError(
            f"{len(rotten):,} of the files of {clean(ref)} cannot be read any more",
            hint="whoever has them can put them again: what is rotten is sent anew, and heals all versions",
        )
    if not session.as_json:
        said = f"{clean(ref)} is sound: all its bytes were read"
        session.out.print(Text("✓ ", "green").append(said, "default"))


@click.command("show")
@click.argument("ref", metavar="NAME[:ALIAS|:vN]")
@common
def show(session: Session, ref: str) -> None:
    """Show a version: where it comes from, who keeps it, its files, and which of them are rotten."""
    show_version(session, ref)


def show_version(session: Session, ref: str) -> None:
    """Prints one version with its files."""
    name, _, wanted = ref.partition(":")
    version = session.client.version(name, wanted or "latest")
    if session.as_json:
        session.emit(version)
        return
    rotten = set(version.get("rotten", []))
    entries = version.get("entries", [])
    facts = {
        "version": f"{name}:v{version.get('version')}",
        "kind": str(version.get("kind", "")).removeprefix("ARTIFACT_KIND_").lower(),
        "made": f"{age(moment(version.get('create_time')))} ago by {version.get('creator', '')}",
        "run": str(version.get("run") or "").rsplit("/", 1)[-1],
        "aliases": ", ".join(version.get("aliases", [])),
        "pinned": str(version.get("pinned_by") or ""),
        "size": f"{size(float(version.get('size') or 0))} in {_files(len(entries))}",
        "rotten": _files(len(rotten)) if rotten else "",
    }
    for title, value in facts.items():
        if value:
            style = "red" if title == "rotten" else "default"
            session.out.print(Text(f"{title:<8} ", "dim").append(clean(value), style))
    # Of many files the rotten ones are shown first.
    for entry in sorted(entries, key=lambda each: each["path"] not in rotten)[:_SHOWN]:
        path = str(entry["path"])
        text = Text(f"{size(float(entry.get('size') or 0)):>10}  ", "dim").append(clean(path), "default")
        session.out.print(text.append("  rotten", "red") if path in rotten else text)
    if len(entries) > _SHOWN:
        session.say(Text(f"and {len(entries) - _SHOWN:,} more: --json has all", style="dim"))


def _files(count: int) -> str:
    return f"{count:,} file{'' if count == 1 else 's'}"


def _key(row: Json, by: str) -> str:
    key = str(row.get("key") or "")
    if by == "kind":
        return key.removeprefix("ARTIFACT_KIND_").lower()
    return clean(key.removeprefix("users/")) or "no run"


def _amounts(row: Json) -> list[Text]:
    sizes = [size(float(row.get(name) or 0)) for name in ("logical_size", "stored_size")]
    return [Text(f"{int(row.get('versions') or 0):,}"), *map(Text, sizes)]


@click.command(short_help="Delete bytes of the store that nobody keeps.")
@click.option("--dry-run", is_flag=True, help="Only say what would be deleted.")
@common
def gc(session: Session, dry_run: bool) -> None:
    """Delete parts of deleted versions and of uploads that were given up, once their grace time is over.

    The platform does so by itself, too, every few minutes. For admins.
    """
    found = session.client.collect_garbage(validate_only=True) if dry_run else _collect(session)
    if session.as_json:
        session.emit(found)
        return
    verb = "would be deleted" if dry_run else "deleted"
    text = Text("✓ ", "green").append(f"{_amount(found, 'blobs', 'size')} {verb}", "default")
    if dry_run and int(found.get("given_up_blobs") or 0):
        text.append(
            f", of these {_amount(found, 'given_up_blobs', 'given_up_size')} of uploads without a version"
        )
    session.out.print(text)
    if int(found.get("waiting_blobs") or 0):
        waiting = _amount(found, "waiting_blobs", "waiting_size")
        session.say(
            Text(f"{waiting} more that nobody keeps stay until their grace time is over", style="dim")
        )


def _collect(session: Session) -> Json:
    """Calls until nothing is due; the sum of all answers."""
    blobs = bytes_ = 0
    while True:
        found = session.client.collect_garbage()
        blobs += int(found.get("blobs") or 0)
        bytes_ += int(found.get("size") or 0)
        # What another collector is deleting stays due for a while, and is not this one's to wait for.
        if not int(found.get("due_blobs") or 0) or not int(found.get("blobs") or 0):
            return {**found, "blobs": blobs, "size": bytes_}


def _amount(found: Json, count: str, bytes_: str) -> str:
    number = int(found.get(count) or 0)
    return f"{number:,} {'blob' if number == 1 else 'blobs'}, {size(float(found.get(bytes_) or 0))}"

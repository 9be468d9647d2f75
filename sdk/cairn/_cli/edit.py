"""`cairn edit`"""

from __future__ import annotations

from typing import Any

import click
from rich.text import Text

from cairn._cli.errors import USAGE, CliError
from cairn._cli.find import ID, find
from cairn._cli.session import Session, common
from cairn._cli.text import clean


@click.command(short_help="Change a run's name, notes, group or tags.")
@click.argument("run", type=ID)
@click.option("--name", metavar="TEXT", help="Its name.")
@click.option("--notes", metavar="TEXT", help="What people should know of it; '' removes them.")
@click.option("--group", metavar="TEXT", help="The name that runs which belong together share; '': none.")
@click.option("-t", "--tag", "tags", multiple=True, metavar="TAG", help="Adds a tag; may be repeated.")
@click.option("--untag", "gone", multiple=True, metavar="TAG", help="Takes a tag away; may be repeated.")
@common
def edit(
    session: Session, run: str, name: str | None, notes: str | None, group: str | None,
    tags: tuple[str, ...], gone: tuple[str, ...],
) -> None:  # fmt: skip
    """Change what people say of a run: its name, notes, group or tags."""
    given: dict[str, Any] = {"display_name": name, "notes": notes, "group": group}
    fields = {field: value for field, value in given.items() if value is not None}
    if not fields and not tags and not gone:
        raise CliError("nothing to change", code=USAGE, hint="--name, --notes, --group, --tag or --untag")
    client, uid = session.client, find(session.client, run)
    if tags or gone:
        before = client.run(uid)
        fields["tags"] = [tag for tag in dict.fromkeys([*before.get("tags", []), *tags]) if tag not in gone]
        fields["etag"] = before["etag"]  # tags that somebody else adds meanwhile are not lost
    changed = client.update_run(uid, **fields)
    if session.as_json:
        session.emit(changed)
        return
    line = Text(uid[:12], style="cyan")
    line.append(f"  {clean(str(changed.get('display_name') or '-'))}", "default")
    if changed.get("group"):
        line.append(f"  in {clean(str(changed['group']))}", "dim")
    for tag in changed.get("tags", []):
        line.append(f"  #{clean(str(tag))}", "magenta")
    session.out.print(line)
    if changed.get("notes"):
        session.out.print(Text(clean(str(changed["notes"]))))

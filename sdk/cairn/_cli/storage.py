"""`cairn gc`"""

from __future__ import annotations

import click
from rich.text import Text

from cairn._cli.session import Session, common
from cairn._cli.text import size
from cairn._http import Json


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

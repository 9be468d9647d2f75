"""From what a person typed to an id: a whole id, the beginning of one, or a name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from cairn._cli.errors import NOT_FOUND, USAGE, CliError
from cairn._cli.records import Record, listing
from cairn._cli.text import age
from cairn._ids import is_uid
from cairn.client import Client

SEARCHED = 1000
SHOWN = 8


def find(client: Client, given: str) -> str:
    """The uid that `given` means. Raises `CliError`: nothing has it, or several have."""
    wanted = given.rsplit("/", 1)[-1].strip()
    if is_uid(wanted.lower()):
        return wanted.lower()
    records, _ = listing(client, limit=SEARCHED)
    return choose(records, wanted)


def find_all(client: Client, given: Sequence[str]) -> list[str]:
    """The uids of several, each once, in order."""
    whole = [each.lower() for each in given if is_uid(each.lower())]
    records = [] if len(whole) == len(given) else listing(client, limit=SEARCHED)[0]
    uids = [each.lower() if is_uid(each.lower()) else choose(records, each) for each in given]
    return list(dict.fromkeys(uids))


def newest(client: Client) -> str:
    """The uid of what was begun last. Raises `CliError` where there is nothing yet."""
    records, _ = listing(client, limit=1)
    if not records:
        raise CliError("there are no runs yet", code=NOT_FOUND, hint="`cairn run -- python train.py`")
    return records[0].uid


def choose(records: Sequence[Record], wanted: str) -> str:
    """The one record whose uid begins with `wanted` or whose name it is. Raises `CliError`."""
    if not wanted:
        raise CliError("an id cannot be empty", code=USAGE)
    matches = [record for record in records if record.uid.startswith(wanted.lower())]
    matches = matches or [record for record in records if record.name == wanted]
    if len(matches) == 1:
        return matches[0].uid
    if not matches:
        raise CliError(
            f"no job or run has an id that begins with {wanted!r}, or has it as its name",
            code=NOT_FOUND,
            hint="`cairn ls` lists what there is",
        )
    listed = "".join(
        f"\n  {each.uid}  {each.name}  {each.state}  {age(each.created)} ago" for each in matches[:SHOWN]
    )
    more = f"\n  and {len(matches) - SHOWN} more" if len(matches) > SHOWN else ""
    raise CliError(
        f"{wanted!r} could be any of {len(matches)}, type more of the id:{listed}{more}", code=USAGE
    )


if TYPE_CHECKING:
    _IdBase = click.ParamType[str]
else:
    _IdBase = click.ParamType  # not generic before click 8.3


class IdType(_IdBase):
    """An argument that the shell completes from the server."""

    name = "id"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        try:
            records, _ = listing(Client(patience=1.0), limit=100)
        except Exception:  # completion has nowhere to say what went wrong
            return []
        return [
            CompletionItem(record.uid, help=f"{record.name} {record.state.lower()}")
            for record in records
            if record.uid.startswith(incomplete.lower())
        ]


ID: Any = IdType()

"""`cairn audit`"""

from __future__ import annotations

import click
from rich.text import Text

from cairn._cli.looks import plain_table
from cairn._cli.session import Session, common
from cairn._cli.text import clean, json_text
from cairn._cli.usage import rfc3339


@click.command(short_help="Show who did what, when, from where.")
@click.option("--actor", default="", metavar="USER", help="What this user did.")
@click.option(
    "--action", default="", metavar="WORD", help="Such as member.added; `member.` is all about members."
)
@click.option("--since", default="", metavar="TIME", help="A date or moment, or 24h, 7d ago. UTC by itself.")
@click.option("--until", default="", metavar="TIME", help="The same.")
@click.option("--all", "every", is_flag=True, help="Of all teams, and of what belongs to none.")
@click.option("-n", "limit", default=50, show_default=True, metavar="N", help="The newest so many; 0: all.")
@common
def audit(session: Session, actor: str, action: str, since: str, until: str, every: bool, limit: int) -> None:
    """Show who did what in the team, newest first (admins); nobody can change or delete that."""
    found = session.client.audit(
        every=every, actor=actor, action=action, since=rfc3339("--since", since) or "",
        until=rfc3339("--until", until) or "", limit=limit or None,
    )  # fmt: skip
    if session.as_json:
        session.emit(list(found))
        return
    table = plain_table()
    for title in ("TIME", "WHO", "WHAT", "TO", "FROM", ""):
        table.add_column(title, no_wrap=True)
    for each in found:
        detail = ", ".join(
            f"{key} {_plain(value)}" for key, value in sorted((each.get("detail") or {}).items())
        )
        table.add_row(
            Text(clean(str(each.get("time", ""))).partition(".")[0].replace("T", " ").rstrip("Z"), "dim"),
            Text(clean(str(each.get("actor") or "-")).removeprefix("users/"), "cyan"),
            Text(clean(str(each.get("action", "")))),
            Text(clean(str(each.get("resource", "")))),
            Text(clean(str(each.get("address") or "-"))),
            Text(clean(detail), "dim"),
        )
    session.out.print(table)


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json_text(value)

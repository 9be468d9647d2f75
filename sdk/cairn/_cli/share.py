"""`cairn share`"""

from __future__ import annotations

import click
from rich.text import Text

from cairn._cli.account import seconds
from cairn._cli.find import find_all
from cairn._cli.looks import plain_table
from cairn._cli.session import Session, common
from cairn._cli.text import age, clean, moment


class _Verbs(click.Group):
    """Ids of runs where no verb stands: `cairn share ID ID` is `cairn share make ID ID`."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self.commands:
            args = ["make", *args]
        return super().resolve_command(ctx, args)


@click.group(cls=_Verbs, short_help="Make a read-only link to a run, or to several side by side.")
def share() -> None:
    """Make a read-only link to a run, or to several side by side: cairn share ID [ID ...] --expires 7d"""


@share.command("make", hidden=True)
@click.argument("runs", nargs=-1, required=True, metavar="ID...")
@click.option("--expires", default="7d", show_default=True, metavar="TIME", help="How long the link is good.")
@common
def share_make(session: Session, runs: tuple[str, ...], expires: str) -> None:
    """Make a link by which anybody reads these runs, and nothing else; shown this once: on stdout, alone."""
    client = session.client
    made = client.share(find_all(client, runs), ttl_seconds=seconds(expires))
    if session.as_json:
        session.emit(made)
        return
    click.echo(made["link"])
    uid = clean(str(made.get("share", {}).get("uid", "")))
    session.say(
        Text(f"whoever has it reads {len(runs)} of your runs; `cairn share revoke {uid}` ends it", "dim")
    )


@share.command("ls")
@common
def share_ls(session: Session) -> None:
    """List the team's links (never their secrets)."""
    found = session.client.shares()
    if session.as_json:
        session.emit(found)
        return
    table = plain_table()
    for title in ("ID", "RUNS", "WHO", "AGE", "STATE"):
        table.add_column(title, no_wrap=True)
    for each in found:
        runs = [clean(str(run)).rsplit("/", 1)[-1][-6:] for run in each.get("runs", [])]
        table.add_row(
            Text(str(each.get("uid", "")), "cyan"), Text(" ".join(runs)),
            Text(clean(str(each.get("creator", ""))).removeprefix("users/")),
            Text(age(moment(each.get("create_time")))), Text(str(each.get("state", "")).lower()),
        )  # fmt: skip
    session.out.print(table)


@share.command("revoke")
@click.argument("share_id", metavar="ID")
@common
def share_revoke(session: Session, share_id: str) -> None:
    """Make a link show nothing any more."""
    revoked = session.client.revoke_share(share_id)
    session.emit(revoked) if session.as_json else session.out.print(Text(f"revoked {share_id}"))

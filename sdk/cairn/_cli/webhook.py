"""`cairn webhook`"""

from __future__ import annotations

import click
from rich.text import Text

from cairn._cli.looks import plain_table
from cairn._cli.session import Session, common
from cairn._cli.text import age, clean, moment


@click.group(short_help="Have an address elsewhere told what happens in the team.")
def webhook() -> None:
    """Have an address elsewhere told what happens in the team (admins)."""


@webhook.command("add")
@click.argument("url")
@click.option(
    "--on", "events", multiple=True, metavar="EVENT", help="Such as job.finished; `job.` is all about jobs."
)
@click.option("--slack", is_flag=True, help="Send what Slack, and what speaks like it, understands.")
@click.option("--name", default="", help="For people to read.")
@common
def webhook_add(session: Session, url: str, events: tuple[str, ...], slack: bool, name: str) -> None:
    """Tell this address. The secret that signs what is sent is shown this once: on stdout, alone."""
    made = session.client.add_webhook(url, events=events, slack=slack, name=name)
    if session.as_json:
        session.emit(made)
        return
    click.echo(made.get("secret", ""))
    session.say(
        Text("Cairn-Signature: t=SECONDS,v1=HEX has the HMAC-SHA256 of `SECONDS.BODY` under it", style="dim")
    )


@webhook.command("ls")
@common
def webhook_ls(session: Session) -> None:
    """List the team's webhooks (never their URLs)."""
    found = session.client.webhooks()
    if session.as_json:
        session.emit(found)
        return
    table = plain_table()
    for title in ("ID", "HOST", "NAME", "EVENTS", "FORMAT", "AGE"):
        table.add_column(title, no_wrap=True)
    for each in found:
        events = " ".join(each.get("events", [])) or "all"
        table.add_row(
            Text(str(each.get("uid", "")), "cyan"), Text(clean(str(each.get("host", "")))),
            Text(clean(str(each.get("display_name") or "-"))), Text(events),
            Text(str(each.get("format", "")).lower()), Text(age(moment(each.get("create_time")))),
        )  # fmt: skip
    session.out.print(table)


@webhook.command("rm")
@click.argument("webhook_id", metavar="ID")
@common
def webhook_rm(session: Session, webhook_id: str) -> None:
    """Send nothing there any more."""
    done = session.client.delete_webhook(webhook_id)
    session.emit(done) if session.as_json else session.out.print(Text(f"deleted {webhook_id}"))


@webhook.command("deliveries")
@click.argument("webhook_id", metavar="ID")
@click.option("-n", "limit", default=50, show_default=True, metavar="N", help="The newest so many.")
@common
def webhook_deliveries(session: Session, webhook_id: str, limit: int) -> None:
    """Show what it was told, newest first, and how that went."""
    found = session.client.webhook_deliveries(webhook_id, limit=limit)
    if session.as_json:
        session.emit(found)
        return
    table = plain_table()
    for title in ("AGE", "EVENT", "ABOUT", "STATE", "TRIES", "ANSWER"):
        table.add_column(title, no_wrap=True)
    for each in found:
        answer = clean(str(each.get("error") or "")) or str(each.get("status") or "-")
        table.add_row(
            Text(age(moment(each.get("create_time")))), Text(clean(str(each.get("event", "")))),
            Text(clean(str(each.get("resource", "")))), Text(str(each.get("state", "")).lower()),
            Text(str(each.get("attempts", 0))), Text(answer, "dim"),
        )  # fmt: skip
    session.out.print(table)

"""`cairn user`, `cairn account`"""

from __future__ import annotations

import click
from rich.text import Text

from cairn._cli.account import ROLES, seconds, show_members
from cairn._cli.looks import plain_table
from cairn._cli.session import Session, common
from cairn._cli.text import age, clean, moment


@click.group(short_help="Invite people, list them, let nobody in as them any more.")
def user() -> None:
    """Invite people, list them, let nobody in as them any more."""


@user.command("invite")
@click.argument("email", metavar="E-MAIL", default="")
@click.option("--role", type=click.Choice(ROLES), default="member", show_default=True)
@click.option("--expires", default="7d", show_default=True, metavar="TIME", help="How long the link is good.")
@click.option(
    "--reset", default="", metavar="USER", help="A link that sets this user's password (owners of main)."
)
@common
def user_invite(session: Session, email: str, role: str, expires: str, reset: str) -> None:
    """Make a link by which one person comes into the team, once. It is shown this once: on stdout, alone."""
    if not email and not reset:
        raise click.UsageError("name the e-mail address of whom you invite")
    made = session.client.invite(
        email, "" if reset else role, ttl_seconds=seconds(expires), user=f"users/{reset}" if reset else ""
    )
    if session.as_json:
        session.emit(made)
        return
    click.echo(made["link"])
    until = clean(str(made.get("invitation", {}).get("expire_time", ""))).partition(".")[0].rstrip("Z")
    session.say(Text(f"good once, until {until.replace('T', ' ')} UTC; give it to nobody else", style="dim"))


@user.command("ls")
@click.option("--all", "everybody", is_flag=True, help="Everybody, for admins of the team main.")
@common
def user_ls(session: Session, everybody: bool) -> None:
    """List the team's people and service accounts."""
    if not everybody:
        show_members(session)
        return
    found = session.client.users()
    if session.as_json:
        session.emit(found)
        return
    table = plain_table()
    for title in ("USER", "NAME", "E-MAIL", "AGE", "STATE"):
        table.add_column(title, no_wrap=True)
    for each in found:
        table.add_row(
            Text(clean(str(each.get("name", ""))).rsplit("/", 1)[-1], "cyan"),
            Text(clean(str(each.get("display_name") or "-"))), Text(clean(str(each.get("email") or "-"))),
            Text(age(moment(each.get("create_time")))), Text(str(each.get("state", "")).lower()),
        )  # fmt: skip
    session.out.print(table)


@user.command("disable")
@click.argument("user_id", metavar="USER")
@common
def user_disable(session: Session, user_id: str) -> None:
    """Revoke all of a user's tokens, and let nobody in as them (admins of the team main)."""
    _state(session, user_id, enabled=False)


@user.command("enable")
@click.argument("user_id", metavar="USER")
@common
def user_enable(session: Session, user_id: str) -> None:
    """Let a disabled user in again (admins of the team main)."""
    _state(session, user_id, enabled=True)


@user.command("invitations")
@common
def user_invitations(session: Session) -> None:
    """List the team's invitations (never their links)."""
    found = session.client.invitations()
    if session.as_json:
        session.emit(found)
        return
    table = plain_table()
    for title in ("ID", "E-MAIL", "ROLE", "AGE", "STATE"):
        table.add_column(title, no_wrap=True)
    for each in found:
        role = str(each.get("role", "")).removeprefix("ROLE_").lower()
        table.add_row(
            Text(str(each.get("uid", "")), "cyan"), Text(clean(str(each.get("email") or "-"))),
            Text("password" if each.get("user") else role), Text(age(moment(each.get("create_time")))),
            Text(str(each.get("state", "")).lower()),
        )  # fmt: skip
    session.out.print(table)


@user.command("uninvite")
@click.argument("invitation", metavar="ID")
@common
def user_uninvite(session: Session, invitation: str) -> None:
    """Make an invitation's link worth nothing."""
    revoked = session.client.revoke_invitation(invitation)
    session.emit(revoked) if session.as_json else session.out.print(Text(f"revoked {invitation}"))


@user.command("password")
@common
def user_password(session: Session) -> None:
    """Change your password; your other sessions end."""
    me = session.client.user()
    current = click.prompt("Present password", hide_input=True) if me.get("has_password") else ""
    new = click.prompt("New password", hide_input=True, confirmation_prompt=True)
    changed = session.client.set_password(new, current=current)
    session.emit(changed) if session.as_json else session.out.print(Text("changed"))


@click.group(short_help="Make, list and end service accounts, for CI and other programs.")
def account() -> None:
    """Make, list and end service accounts, for CI and other programs."""


@account.command("create")
@click.argument("account_id", metavar="ID")
@click.option("--role", type=click.Choice(["viewer", "member"]), default="member", show_default=True)
@click.option("--scope", type=click.Choice(["read", "write"]), default="write", show_default=True)
@click.option("--expires", default="", metavar="TIME", help="Of its token: such as 12h or 90d.")
@common
def account_create(session: Session, account_id: str, role: str, scope: str, expires: str) -> None:
    """Make a service account of the team, and a token for it, shown this once: on stdout, alone."""
    client = session.client
    made = client.create_account(account_id, role=role)
    name = str(made.get("name", ""))
    token = client.create_account_token(name, scope=scope, ttl_seconds=seconds(expires) if expires else None)
    if session.as_json:
        session.emit({"account": made, **token})
        return
    click.echo(token.get("secret", ""))
    session.say(Text(f"a token for {name}; keep it now: it is not shown again", style="dim"))


@account.command("token")
@click.argument("account_id", metavar="ID")
@click.option("--scope", type=click.Choice(["read", "write"]), default="write", show_default=True)
@click.option("--expires", default="", metavar="TIME", help="Such as 12h or 90d.")
@common
def account_token(session: Session, account_id: str, scope: str, expires: str) -> None:
    """Make another token for a service account. The secret is shown this once: on stdout, alone."""
    made = session.client.create_account_token(
        _full(session, account_id), scope=scope, ttl_seconds=seconds(expires) if expires else None
    )
    session.emit(made) if session.as_json else click.echo(made.get("secret", ""))


@account.command("rm")
@click.argument("account_id", metavar="ID")
@common
def account_rm(session: Session, account_id: str) -> None:
    """End a service account and its tokens."""
    ended = session.client.disable_account(_full(session, account_id))
    session.emit(ended) if session.as_json else session.out.print(Text(f"ended {account_id}"))


def _state(session: Session, user_id: str, *, enabled: bool) -> None:
    changed = session.client.set_user_state(user_id, enabled=enabled)
    word = "enabled" if enabled else "disabled"
    session.emit(changed) if session.as_json else session.out.print(Text(f"{word} {user_id}"))


def _full(session: Session, account_id: str) -> str:
    """`ci` as the user that it is in this team: `ci.vision`."""
    return account_id if "." in account_id else f"{account_id}.{session.client.team}"

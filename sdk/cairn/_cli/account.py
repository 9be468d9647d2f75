"""`cairn team`, `cairn token`, `cairn whoami`"""

from __future__ import annotations

import re

import click
from rich.text import Text

from cairn._cli.errors import USAGE, CliError
from cairn._cli.looks import plain_table
from cairn._cli.session import Session, common
from cairn._cli.text import age, clean, moment, span
from cairn._http import Json

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


ROLES = ("viewer", "member", "admin", "owner")


@click.group(
    invoke_without_command=True, short_help="Show the team or change it; its members and their roles."
)
@click.option("--gpus", default=None, metavar="N", help="Set the limit of GPUs at a time (none: no limit).")
@click.option("--cpus", default=None, metavar="N", help="Set the limit of CPU cores at a time.")
@click.option("--jobs", default=None, metavar="N", help="Set the limit of jobs at a time.")
@common
@click.pass_context
def team(ctx: click.Context, session: Session, gpus: str | None, cpus: str | None, jobs: str | None) -> None:
    """Show the team with its limits and what it holds, or change the limits (admins)."""
    if ctx.invoked_subcommand is not None:
        return
    found = session.client.team_info()
    wanted = {"gpus": gpus, "cpu_milli": cpus, "jobs": jobs}
    if any(value is not None for value in wanted.values()):
        limits = dict(found.get("limits") or {})
        for key, value in wanted.items():
            _change(limits, key, value)
        found = session.client.set_limits(limits)
    if session.as_json:
        session.emit(found)
        return
    table = plain_table()
    for title in ("", "HELD", "LIMIT"):
        table.add_column(title, justify="right" if title else "left")
    limits, held = found.get("limits") or {}, found.get("held") or {}
    for label, key, scale in (("GPUs", "gpus", 1), ("CPU cores", "cpu_milli", 1000), ("jobs", "jobs", 1)):
        most = limits.get(key)
        limit = "no limit" if most is None else f"{int(most) / scale:g}"
        table.add_row(label, f"{int(held.get(key) or 0) / scale:g}", limit)
    name = clean(str(found.get("name", ""))).rsplit("/", 1)[-1]
    session.out.print(Text(name, style="bold"))
    session.out.print(table)


@team.command("create")
@click.argument("team_id", metavar="ID")
@click.option("--name", default="", help="For people to read.")
@common
def team_create(session: Session, team_id: str, name: str) -> None:
    """Make a team, which you then own (admins of the team main)."""
    made = session.client.create_team(team_id, name=name)
    session.emit(made) if session.as_json else session.out.print(Text(f"made team {team_id}"))


@team.command("ls")
@common
def team_ls(session: Session) -> None:
    """List the teams that you are in."""
    found = session.client.teams()
    if session.as_json:
        session.emit(found)
        return
    table = plain_table()
    for title in ("TEAM", "NAME"):
        table.add_column(title, no_wrap=True)
    for each in found:
        name = clean(str(each.get("name", ""))).rsplit("/", 1)[-1]
        table.add_row(Text(name, "cyan"), Text(clean(str(each.get("display_name") or "-"))))
    session.out.print(table)


@team.command("members")
@common
def team_members(session: Session) -> None:
    """List who is what in the team."""
    show_members(session)


@team.command("add")
@click.argument("user", metavar="USER")
@click.option("--role", type=click.Choice(ROLES), default="member", show_default=True)
@common
def team_add(session: Session, user: str, role: str) -> None:
    """Make somebody a member: by id or e-mail address. Who has no account is invited: `cairn user invite`."""
    made = session.client.add_member(user, role)
    session.emit(made) if session.as_json else session.out.print(Text(f"{user} is {role} now"))


@team.command("remove")
@click.argument("user", metavar="USER")
@common
def team_remove(session: Session, user: str) -> None:
    """Take somebody out of the team, or leave it by your own id."""
    removed = session.client.remove_member(user)
    session.emit(removed) if session.as_json else session.out.print(Text(f"{user} is out of the team"))


@team.command("role")
@click.argument("user", metavar="USER")
@click.argument("role", type=click.Choice(ROLES))
@common
def team_role(session: Session, user: str, role: str) -> None:
    """Give a member another role; felt everywhere at once."""
    changed = session.client.set_role(user, role)
    session.emit(changed) if session.as_json else session.out.print(Text(f"{user} is {role} now"))


def show_members(session: Session) -> None:
    """The team's members as a table, or as JSON."""
    found = session.client.members()
    if session.as_json:
        session.emit(found)
        return
    table = plain_table()
    for title in ("USER", "ROLE", "NAME", "E-MAIL", ""):
        table.add_column(title, no_wrap=True)
    for each in found:
        states = []
        if each.get("kind") == "SERVICE_ACCOUNT":
            states.append("service account")
        if each.get("state") == "DISABLED":
            states.append("disabled")
        table.add_row(
            Text(clean(str(each.get("user", ""))).rsplit("/", 1)[-1], "cyan"),
            Text(str(each.get("role", "")).removeprefix("ROLE_").lower()),
            Text(clean(str(each.get("display_name") or "-"))),
            Text(clean(str(each.get("email") or "-"))),
            Text(", ".join(states), "dim"),
        )
    session.out.print(table)


@click.command(short_help="Say who you are here.")
@common
def whoami(session: Session) -> None:
    """Say who you are here, in which teams, and what your token is good for."""
    me = session.client.me()
    if session.as_json:
        session.emit({**me, "url": session.client.url, "team": session.client.team})
        return
    who = clean(str(me.get("subject", ""))).rsplit("/", 1)[-1]
    scope = str(me.get("scope", "")).removeprefix("SCOPE_").lower()
    session.out.print(
        Text(who, "bold").append(f" at {session.client.url}, by a token of scope {scope}", "default")
    )
    for each in me.get("memberships", []):
        mark = "*" if each.get("team") == session.client.team else " "
        role = str(each.get("role", "")).removeprefix("ROLE_").lower()
        session.out.print(Text(f"{mark} {clean(str(each.get('team', '')))}  {role}"))


@click.group()
def token() -> None:
    """Make, list and revoke tokens of yours."""


@token.command("ls")
@common
def token_ls(session: Session) -> None:
    """List your tokens (never their secrets)."""
    found = session.client.tokens()
    if session.as_json:
        session.emit(found)
        return
    table = plain_table()
    for title in ("ID", "NAME", "SCOPE", "AGE", "STATE"):
        table.add_column(title, no_wrap=True)
    for each in found:
        table.add_row(
            Text(str(each.get("uid", "")), "cyan"), Text(clean(str(each.get("display_name") or "-"))),
            _scope(each), Text(age(moment(each.get("create_time")))), _token_state(each),
        )  # fmt: skip
    session.out.print(table)


@token.command("create")
@click.argument("name", default="")
@click.option("--scope", type=click.Choice(["read", "write", "admin"]), default="write", show_default=True)
@click.option(
    "--expires", "--ttl", "ttl", default="", metavar="TIME",
    help="Such as 12h or 30d; without it, it does not expire.",
)  # fmt: skip
@common
def token_create(session: Session, name: str, scope: str, ttl: str) -> None:
    """Make a token. Its secret is shown this once: on stdout, alone."""
    made = session.client.create_token(name, scope=scope, ttl_seconds=seconds(ttl) if ttl else None)
    if session.as_json:
        session.emit(made)
        return
    click.echo(made.get("secret", ""))
    session.say(Text("keep it now: it is not shown again", style="dim"))


@token.command("revoke")
@click.argument("token_id", metavar="ID")
@common
def token_revoke(session: Session, token_id: str) -> None:
    """Revoke a token; felt everywhere within 5 seconds."""
    revoked = session.client.revoke_token(token_id)
    session.emit(revoked) if session.as_json else session.out.print(Text(f"revoked {token_id}"))


def _change(limits: Json, key: str, value: str | None) -> None:
    if value is None:
        return
    if value == "none":
        limits.pop(key, None)
        return
    try:
        amount = float(value)
    except ValueError:
        raise CliError(f"{value!r} is no number; give a number or `none`", code=USAGE) from None
    limits[key] = round(amount * 1000) if key == "cpu_milli" else int(amount)


def seconds(text: str, option: str = "--expires") -> int:
    """90s, 30m, 12h or 30d in seconds. Raises `CliError`."""
    match = re.fullmatch(r"(\d{1,9})([smhd])", text)
    if match is None:
        raise CliError(f"{option} {text!r} is no time; give 90s, 30m, 12h or 30d", code=USAGE)
    return int(match[1]) * _UNITS[match[2]]


def _scope(each: Json) -> Text:
    return Text(str(each.get("scope", "")).removeprefix("SCOPE_").lower())


def _token_state(each: Json) -> Text:
    import time

    if each.get("revoke_time"):
        return Text("revoked", "dim")
    expire = moment(each.get("expire_time"))
    if expire is not None and expire < time.time():
        return Text("expired", "dim")
    return Text("valid" if expire is None else f"valid for {span(expire - time.time())}", "green")

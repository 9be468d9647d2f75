"""`cairn team`, `cairn token`"""

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


@click.command(short_help="Show the team's limits, or change them.")
@click.option("--gpus", default=None, metavar="N", help="Set the limit of GPUs at a time (none: no limit).")
@click.option("--cpus", default=None, metavar="N", help="Set the limit of CPU cores at a time.")
@click.option("--jobs", default=None, metavar="N", help="Set the limit of jobs at a time.")
@common
def team(session: Session, gpus: str | None, cpus: str | None, jobs: str | None) -> None:
    """Show the team with its limits and what it holds, or change the limits (admins)."""
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
@click.argument("name")
@click.option("--scope", type=click.Choice(["read", "write", "admin"]), default="write", show_default=True)
@click.option("--ttl", default="", metavar="TIME", help="Such as 12h or 30d; without it, it does not expire.")
@common
def token_create(session: Session, name: str, scope: str, ttl: str) -> None:
    """Make a token. Its secret is shown this once: on stdout, alone."""
    made = session.client.create_token(name, scope=scope, ttl_seconds=_seconds(ttl) if ttl else None)
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


def _seconds(text: str) -> int:
    match = re.fullmatch(r"(\d{1,9})([smhd])", text)
    if match is None:
        raise CliError(f"--ttl {text!r} is no time; give 90s, 30m, 12h or 30d", code=USAGE)
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

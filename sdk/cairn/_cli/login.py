"""`cairn login`"""

from __future__ import annotations

import sys
from dataclasses import replace

import click
from rich.text import Text

from cairn._cli.errors import NOT_ALLOWED, USAGE, CliError
from cairn._cli.session import Session, common
from cairn._cli.text import clean
from cairn._config import DEFAULT_TEAM, Config, load_config, save_config
from cairn._http import ApiError
from cairn.client import Client


@click.command(short_help="Remember a server and a token.")
@click.argument("url", required=False)
@click.option("--token", default="", help="The token; better typed when asked, or given on stdin.")
@common
def login(session: Session, url: str | None, token: str) -> None:
    """Remember a server and a token for this user (readable by you alone).

    CAIRN_URL, CAIRN_TOKEN and CAIRN_TEAM win over what is remembered.
    """
    known = load_config()
    url = url or known.url
    if not url:
        raise CliError("name the server: cairn login http://host:port", code=USAGE)
    secret = token or _ask()
    team = session.client_team or known.team
    client = Client(url, secret, team)
    try:
        me = client.me()
    except ApiError as error:
        if error.status == 401:
            raise CliError(
                f"{client.url} does not know this token: {clean(error.detail)}", code=NOT_ALLOWED
            ) from None
        raise
    teams = [str(each.get("team")) for each in me.get("memberships", [])]
    if teams and team not in teams:
        if session.client_team:
            raise CliError(
                f"the token's bearer is in no team {team!r}, only in {', '.join(teams)}", code=NOT_ALLOWED
            )
        team = DEFAULT_TEAM if DEFAULT_TEAM in teams else teams[0]
    path = save_config(replace(Config(), url=client.url, token=secret, team=team))
    who = clean(str(me.get("subject", ""))).rsplit("/", 1)[-1]
    if session.as_json:
        session.emit({"url": client.url, "team": team, "subject": me.get("subject"), "config": str(path)})
        return
    session.out.print(
        Text("✓ ", "green").append(f"{who} at {client.url}, team {team}; kept in {path}", "default")
    )


def _ask() -> str:
    if sys.stdin.isatty():
        return str(click.prompt("Token", hide_input=True)).strip()
    secret = sys.stdin.readline().strip()
    if not secret:
        raise CliError("no token came on stdin", code=USAGE)
    return secret

"""`cairn login`"""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

import click
from rich.text import Text

from cairn._cli.errors import NOT_ALLOWED, USAGE, CliError
from cairn._cli.session import Session, common
from cairn._cli.text import clean
from cairn._config import DEFAULT_TEAM, Config, load_config, save_config
from cairn._http import ApiError
from cairn.client import Client

SESSION_SECONDS = 30 * 86400
_POLL_SECONDS = 2.0
_WAIT_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class _Ways:
    """By what somebody wants to come in."""

    token: str
    email: str
    invite: str
    browser: bool
    device: bool


@click.command(short_help="Sign in to a server: by password, invitation, browser or token.")
@click.argument("url", required=False)
@click.option("--token", default="", help="A token; `-`: asked for, or given on stdin.")
@click.option(
    "--email", default="", metavar="E-MAIL", help="Sign in by password, which is asked for (or on stdin)."
)
@click.option("--invite", default="", metavar="LINK", help="Come in by an invitation.")
@click.option("--browser", is_flag=True, help="By the browser of this machine.")
@click.option("--device", is_flag=True, help="By a code, confirmed in a browser anywhere.")
@common
def login(
    session: Session, url: str | None, token: str, email: str, invite: str, browser: bool, device: bool
) -> None:
    """Sign in, and remember the server and the token for this user (readable by you alone).

    Without an option the browser of this machine is opened, or, where there is none, a code is shown that is
    confirmed in any other; in a script a token is read from stdin. CAIRN_URL, CAIRN_TOKEN and CAIRN_TEAM win
    over what is remembered.
    """
    if sum(map(bool, (token, email, invite, browser, device))) > 1:
        raise CliError("give one of --token, --email, --invite, --browser and --device", code=USAGE)
    ways = _Ways(token, email, invite, browser, device)
    if invite:
        url, _, _ = invite.partition("#")
    known = load_config()
    url = url or known.url
    if not url:
        raise CliError("name the server: cairn login http://host:port", code=USAGE)
    team = session.client_team or known.team
    nobody = Client(url, "", team)
    client = Client(url, _secret(session, nobody, ways), team)
    _remember(session, client)


def _secret(session: Session, nobody: Client, ways: _Ways) -> str:
    """The token by which this command line is in from now on."""
    if ways.invite:
        return _by_invitation(session, nobody, ways.invite)
    if ways.email:
        password = _ask("Password")
        return _given(lambda: nobody.sign_in(ways.email, password, ttl_seconds=SESSION_SECONDS))
    if ways.token or not (ways.browser or ways.device or sys.stdin.isatty()):
        return ways.token if ways.token not in ("", "-") else _ask("Token")
    from cairn._cli import loopback

    if not ways.device and (secret := loopback.come_in(session, nobody)):
        return secret
    return _by_device(session, nobody)


def _by_invitation(session: Session, nobody: Client, link: str) -> str:
    kind, _, secret = urlsplit(link).fragment.partition("=")
    if kind not in ("invite", "setup") or not secret:
        raise CliError(
            "--invite: that is no invitation; it looks like http://host:port/#invite=...", code=USAGE
        )
    fields = {"ttl": f"{SESSION_SECONDS}s"}
    if kind == "setup":
        fields["email"] = str(click.prompt("Your e-mail address", err=True)).strip()
    session.say(Text("choose a password; if you have an account here, give its password", style="dim"))
    password = _ask("Password")
    return _given(lambda: nobody.accept_invitation(secret, password, **fields))


def _by_device(session: Session, nobody: Client) -> str:
    asked = nobody.ask_in(f"cairn on {platform.node()[:60]}")
    code = clean(str(asked.get("login", {}).get("code", "")))
    page = f"{nobody.url}/#/device/{code}"
    session.say(Text(f"open {page}\nand confirm the code ").append(code, "bold"))
    end = time.monotonic() + _WAIT_SECONDS
    while time.monotonic() < end:
        try:
            return str(nobody.finish_ask(str(asked.get("secret", ""))).get("secret", ""))
        except ApiError as error:
            if error.reason != "LOGIN_PENDING":
                raise
        time.sleep(_POLL_SECONDS)
    raise CliError("nobody has confirmed it in time; run it again", code=NOT_ALLOWED)


def _given(come_in: Callable[[], dict[str, object]]) -> str:
    try:
        return str(come_in().get("secret", ""))
    except ApiError as error:
        if error.status == 401:
            raise CliError(clean(error.detail), code=NOT_ALLOWED) from None
        raise


def _remember(session: Session, client: Client) -> None:
    try:
        me = client.me()
    except ApiError as error:
        if error.status == 401:
            raise CliError(
                f"{client.url} does not know this token: {clean(error.detail)}", code=NOT_ALLOWED
            ) from None
        raise
    team = client.team
    teams = [str(each.get("team")) for each in me.get("memberships", [])]
    if teams and team not in teams:
        if session.client_team:
            raise CliError(
                f"the token's bearer is in no team {team!r}, only in {', '.join(teams)}", code=NOT_ALLOWED
            )
        team = DEFAULT_TEAM if DEFAULT_TEAM in teams else teams[0]
    path = save_config(replace(Config(), url=client.url, token=client.token(), team=team))
    who = clean(str(me.get("subject", ""))).rsplit("/", 1)[-1]
    if session.as_json:
        session.emit({"url": client.url, "team": team, "subject": me.get("subject"), "config": str(path)})
        return
    session.out.print(
        Text("✓ ", "green").append(f"{who} at {client.url}, team {team}; kept in {path}", "default")
    )


def _ask(what: str) -> str:
    if sys.stdin.isatty():
        return str(click.prompt(what, hide_input=True, err=True)).strip()
    secret = sys.stdin.readline().strip()
    if not secret:
        raise CliError(f"no {what.lower()} came on stdin", code=USAGE)
    return secret

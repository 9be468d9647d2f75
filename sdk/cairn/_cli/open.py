"""`cairn open`"""

from __future__ import annotations

import html
import os
import webbrowser
from pathlib import Path

import click

from cairn._cli.find import ID, find
from cairn._cli.session import Session, common
from cairn._config import config_path, load_config


@click.command("open", short_help="Open the page, signed in.")
@click.argument("run", type=ID, required=False)
@click.option("--print", "only_print", is_flag=True, help="Print the address instead; it holds your token.")
@common
def open_page(session: Session, run: str | None, only_print: bool) -> None:
    """Open the page in a browser, signed in, at RUN or at the list of runs."""
    client = session.client
    view = f"&view=/runs/{find(client, run)}" if run else ""
    address = f"{client.url}/#token={load_config().token}{view}"
    if session.as_json:
        session.emit({"url": address})
    elif only_print or not _open(address):
        click.echo(address)
    else:
        session.say(f"opened {client.url}")


def _open(address: str) -> bool:
    """Opens `address` by way of a file of the user's own: a browser's arguments can be read by others."""
    try:
        browser = webbrowser.get()
    except webbrowser.Error:
        return False
    page = config_path().with_name("open.html")
    page.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    page.unlink(missing_ok=True)
    target = html.escape(address, quote=True)
    with open(os.open(page, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(f'<meta http-equiv="refresh" content="0; url={target}"><a href="{target}">Cairn</a>\n')
    return browser.open(Path(page).as_uri())

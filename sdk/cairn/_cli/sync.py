"""`cairn sync`"""

from __future__ import annotations

import click

from cairn._cli.errors import CliError
from cairn._cli.session import Session, common


@click.command(short_help="Send runs that met no server.")
@click.argument("directory", default=".", type=click.Path(exists=True, file_okay=False))
@click.option("--timeout", default=60.0, show_default=True, help="Seconds that each run may take.")
@common
def sync(session: Session, directory: str, timeout: float) -> None:
    """Send what runs in DIRECTORY's .cairn folder logged where no server could be reached, once and for all.

    Runs that still log are left alone. Copied from a machine without network, the folder is as good as there.
    """
    import cairn

    try:
        sent = cairn.sync(directory, timeout=timeout)
    except ValueError as error:
        raise CliError(str(error)) from error
    if session.as_json:
        session.emit(sent)
    elif not sent:
        session.say("nothing is left to send")
    for uid, done in sent.items():
        if not session.as_json:
            session.out.print(
                f"{uid}  {'sent' if done else 'not all of it; what is left stays in its folder'}"
            )
    if not all(sent.values()):
        raise click.exceptions.Exit(1)

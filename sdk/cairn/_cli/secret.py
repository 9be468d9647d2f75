"""`cairn secret`: values that jobs get in their environment, kept by the platform."""

from __future__ import annotations

from pathlib import Path

import click
from rich.text import Text

from cairn._cli.errors import USAGE, CliError
from cairn._cli.looks import plain_table
from cairn._cli.secrets import value_of
from cairn._cli.session import Session, common
from cairn._cli.text import age, clean, moment

_shared = click.option("--shared", is_flag=True, help="The team's, for all its members; admins set it.")


@click.group(short_help="Keep tokens and passwords for your jobs, or the team's.")
def secret() -> None:
    """Keep values that jobs get in their environment: `cairn run --secret HF_TOKEN`, or `secrets: [HF_TOKEN]`
    in the task. Your own go before the team's. Nobody is shown them again."""


@secret.command("set")
@click.argument("name", metavar="NAME")
@click.option(
    "--from-file", "file", type=click.Path(path_type=Path), default=None, metavar="FILE", help="Its content."
)
@_shared
@common
def secret_set(session: Session, name: str, file: Path | None, shared: bool) -> None:
    """Keep a value, or replace it. It is asked for, or read from stdin: a command line stays in histories."""
    variable, equals, _ = name.partition("=")
    if equals:
        raise CliError(
            f"{clean(variable)}=...: a value on the command line stays in your shell's history", code=USAGE,
            hint=f"cairn secret set {clean(variable)} (asks for it), or ... < FILE; and change this one",
        )  # fmt: skip
    value = value_of(variable, file, option="--from-file")
    made = session.client.set_secret(variable, value, shared=shared)
    if session.as_json:
        session.emit(made)
        return
    whose = f"the team {session.client.team}" if shared else "you"
    session.out.print(Text("✓ ", "green").append(f"{clean(variable)} is kept for {whose}", "default"))
    if session.interactive:
        session.say(Text(f"  cairn run --secret {clean(variable)} ... gives it to a job", "dim"))


@secret.command("ls")
@common
def secret_ls(session: Session) -> None:
    """List yours and the team's (never their values)."""
    found = [*session.client.secrets(), *session.client.secrets(shared=True)]
    if session.as_json:
        session.emit(found)
        return
    table = plain_table()
    for title in ("NAME", "OF", "SET BY", "SET", "LAST USED"):
        table.add_column(title, no_wrap=True)
    for each in found:
        owner, used = str(each.get("name", "")).partition("/secrets/")[0], each.get("use_time")
        table.add_row(
            Text(clean(str(each.get("variable", ""))), "cyan"),
            Text("you" if owner.startswith("users/") else clean(owner)),
            Text(clean(str(each.get("setter", ""))).removeprefix("users/")),
            Text(age(moment(each.get("update_time")))), Text(age(moment(used)) if used else "never"),
        )  # fmt: skip
    session.out.print(table)


@secret.command("rm")
@click.argument("name", metavar="NAME")
@_shared
@common
def secret_rm(session: Session, name: str, shared: bool) -> None:
    """Give it to no attempt that begins later."""
    done = session.client.delete_secret(name, shared=shared)
    session.emit(done) if session.as_json else session.out.print(Text(f"removed {clean(name)}"))

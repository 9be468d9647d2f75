"""`python -m cairn_server`: the server's commands without the rest of the command line."""

from __future__ import annotations

import click

from cairn_server.cli import commands


def main() -> None:
    """Runs one of the server's commands."""
    click.Group("cairn-server", commands=commands())(prog_name="python -m cairn_server")


if __name__ == "__main__":
    main()

"""`cairn completion`"""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

SHELLS = ("bash", "zsh", "fish")


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print a script that completes commands, options and run ids.

    \b
    bash:  eval "$(cairn completion bash)"     in ~/.bashrc
    zsh:   eval "$(cairn completion zsh)"      in ~/.zshrc
    fish:  cairn completion fish | source      in ~/.config/fish/config.fish
    """
    kind = get_completion_class(shell)
    assert kind is not None
    root = ctx.find_root().command
    click.echo(kind(root, {}, "cairn", "_CAIRN_COMPLETE").source())

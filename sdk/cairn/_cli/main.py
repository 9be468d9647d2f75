"""The command group: built-in commands, commands of other distributions, and one place where errors end.

Exit codes: 0 well, 1 failed (also: the job that was waited for), 2 wrong use, 3 not found, 4 not allowed or
not logged in, 5 the server cannot be reached, 130 interrupted.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import entry_points, version

import click

from cairn._cli.errors import Told, tell

PLUGINS = "cairn.commands"

# Section of the help, command, module that has it, attribute.
BUILT_IN = (
    ("Jobs", "run", "run", "run"),
    ("Jobs", "ls", "ls", "ls"),
    ("Jobs", "show", "show", "show"),
    ("Jobs", "edit", "edit", "edit"),
    ("Jobs", "logs", "logs", "logs"),
    ("Jobs", "watch", "watch", "watch"),
    ("Jobs", "why", "why", "why"),
    ("Jobs", "queue", "why", "queue"),
    ("Jobs", "what-if", "why", "what_if"),
    ("Jobs", "stop", "stop", "stop"),
    ("Jobs", "check", "check", "check"),
    ("Jobs", "checkpoints", "again", "checkpoints"),
    ("Jobs", "resume", "again", "resume"),
    ("Jobs", "rerun", "again", "rerun"),
    ("Jobs", "hold", "steer", "hold"),
    ("Jobs", "release", "steer", "release"),
    ("Jobs", "preempt", "steer", "preempt"),
    ("Reaching in", "exec", "attach", "exec_"),
    ("Reaching in", "ssh", "attach", "ssh"),
    ("Reaching in", "forward", "forward", "forward"),
    ("Interactive", "notebook", "interactive", "notebook"),
    ("Interactive", "code", "interactive", "code"),
    ("Interactive", "serve-model", "interactive", "serve_model"),
    ("Results", "compare", "compare", "compare"),
    ("Results", "metrics", "metrics", "metrics"),
    ("Results", "media", "media", "media"),
    ("Results", "export", "export", "export"),
    ("Results", "sync", "sync", "sync"),
    ("Results", "open", "open", "open_page"),
    ("Results", "share", "share", "share"),
    ("Results", "artifacts", "artifacts", "artifacts"),
    ("Results", "models", "models", "models"),
    ("Results", "datasets", "datasets", "datasets"),
    ("Results", "evals", "evals", "evals"),
    ("Results", "lineage", "lineage", "lineage"),
    ("Results", "retention", "retention", "retention"),
    ("Results", "storage", "storage", "storage"),
    ("Results", "gc", "storage", "gc"),
    ("Account", "infra", "infra", "infra"),
    ("Account", "login", "login", "login"),
    ("Account", "whoami", "account", "whoami"),
    ("Account", "team", "account", "team"),
    ("Account", "user", "people", "user"),
    ("Account", "account", "people", "account"),
    ("Account", "quota", "quota", "quota"),
    ("Account", "usage", "usage", "usage"),
    ("Account", "token", "account", "token"),
    ("Account", "secret", "secret", "secret"),
    ("Account", "audit", "audit", "audit"),
    ("Account", "webhook", "webhook", "webhook"),
    ("Account", "completion", "completion", "completion"),
)
PLUGIN_SECTION = "Platform"


class Commands(click.Group):
    """Imports a command's module when it is wanted; asks plugins only for what is not built in."""

    _found: dict[str, click.Command] | None = None

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*(name for _, name, _, _ in BUILT_IN), *sorted(self._plugins())]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        for _, name, module, attribute in BUILT_IN:
            if name == cmd_name:
                command = getattr(import_module(f"cairn._cli.{module}"), attribute)
                assert isinstance(command, click.Command)
                return command
        return self._plugins().get(cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        titles = {name: title for title, name, _, _ in BUILT_IN}
        for name in self.list_commands(ctx):
            command = self.get_command(ctx, name)
            if command is not None and not command.hidden:
                rows = sections.setdefault(titles.get(name, PLUGIN_SECTION), [])
                rows.append((name, command.get_short_help_str(80)))
        for title, rows in sections.items():
            with formatter.section(title):
                formatter.write_dl(rows)

    def _plugins(self) -> dict[str, click.Command]:
        if self._found is None:
            self._found = load_plugins()
        return self._found


def load_plugins() -> dict[str, click.Command]:
    """Commands of the entry points `cairn.commands`; one that is broken costs a line, not the others."""
    found: dict[str, click.Command] = {}
    for point in entry_points(group=PLUGINS):
        try:
            commands = point.load()()
            found.update({str(command.name): command for command in commands})
        except Exception as error:  # another distribution's code: whatever it raises, ours goes on
            if debugging():
                traceback.print_exc()
            click.echo(f"cairn: the commands of {point.value} are left out: {error}", err=True)
    return found


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 well, 1 failed, 2 wrong use, 3 not found, 4 not allowed, 5 server unreachable.",
)
@click.version_option(version("cairn-sdk"), prog_name="cairn")
@click.option("--debug", is_flag=True, help="Show a traceback for errors (also CAIRN_DEBUG=1).")
def cli(debug: bool) -> None:
    """Run machine learning jobs, follow them, and compare what came out.

    \b
    cairn run -- python train.py --lr 3e-4   queue this folder with this command
    cairn ls                                 what runs, what waits, what came out
    cairn logs -f                            follow the newest job's output
    cairn compare ID ID                      side by side
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a command and exits the process with its code."""
    sys.exit(invoke(arguments))


def invoke(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; every error ends here, as one line and an exit code."""
    try:
        done = cli.main(
            args=None if arguments is None else list(arguments), prog_name="cairn", standalone_mode=False
        )
        sys.stdout.flush()
        return done if isinstance(done, int) else 0
    except click.Abort:
        click.echo("interrupted", err=True)
        return 130
    except KeyboardInterrupt:
        click.echo("interrupted", err=True)
        return 130
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except BrokenPipeError:
        # Whoever read our output has seen enough (`cairn ls | head`).
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if debugging():
            traceback.print_exc()
        told = tell(error)
        _show(told)
        return told.code


def debugging() -> bool:
    """Whether tracebacks are wanted: `--debug` anywhere before a `--`, or CAIRN_DEBUG."""
    own = sys.argv[1 : sys.argv.index("--")] if "--" in sys.argv else sys.argv[1:]
    return "--debug" in own or os.environ.get("CAIRN_DEBUG", "") not in ("", "0")


def _show(told: Told) -> None:
    click.echo(click.style("error: ", fg="red", bold=True) + told.message, err=True)
    if told.hint:
        click.echo(click.style("  hint: ", fg="cyan") + told.hint, err=True)

"""Values of a task's secrets: from options, a file, or this shell's environment. No error says a value.

What has no value here is the platform's to know (`cairn secret set`), or to say that it is not known.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from cairn._cli.errors import USAGE, CliError
from cairn._cli.text import clean

_LONGEST = 64 * 1024
_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")


def given(pairs: Sequence[str], file: Path | None) -> dict[str, str | None]:
    """What `--secret NAME`, `NAME=@FILE`, `NAME=-` (stdin) and `--secret-file` say; options go first. None:
    it is not known here. Raises `CliError`."""
    values: dict[str, str | None] = {} if file is None else {**_read(file)}
    for pair in pairs:
        name, equals, source = pair.partition("=")
        if not _NAME.fullmatch(name):
            raise CliError(
                "--secret: give NAME, NAME=@FILE or NAME=-; the name has letters, digits and _", code=USAGE
            )
        if not equals:
            values[name] = os.environ.get(name)
        elif source == "-":
            values[name] = value_of(name, None, option="--secret")
        elif source.startswith("@") and len(source) > 1:
            values[name] = value_of(name, Path(source[1:]).expanduser(), option="--secret")
        else:
            raise CliError(
                f"--secret {name}=...: a value on the command line stays in your shell's history, and all"
                " users of this machine see it", code=USAGE,
                hint=f"cairn secret set {name} (asks for it, once), then --secret {name}; or {name}=@FILE, or"
                f" {name}=- for stdin; and change this one",
            )  # fmt: skip
    return values


def value_of(variable: str, file: Path | None, *, option: str) -> str:
    """From a file, a prompt that shows nothing, or stdin; one line break at its end is not part of it. Raises
    `CliError`."""
    if file is not None:
        try:
            with file.open("rb") as opened:
                raw = opened.read(_LONGEST + 2)
        except OSError as error:
            raise CliError(f"{option} {file}: {error.strerror}", code=USAGE) from None
    elif sys.stdin.isatty():
        return str(click.prompt(f"Value of {clean(variable)}", hide_input=True, err=True))
    else:
        raw = sys.stdin.buffer.read(_LONGEST + 2)
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise CliError(f"the value of {clean(variable)} is no text (UTF-8)", code=USAGE) from None
    if not text:
        raise CliError(f"no value of {clean(variable)} came", code=USAGE)
    return text.removesuffix("\n").removesuffix("\r")


def declare(task: dict[str, Any], names: Sequence[str]) -> None:
    """Writes names that the task does not declare into its `secrets`, without values."""
    declared = task.get("secrets")
    if isinstance(declared, list):
        known = {str(name).removeprefix("secrets:"): None for name in declared}
    elif isinstance(declared, dict) or declared is None:
        known = dict(declared or {})
    else:
        return  # the scheduler says what is wrong with it
    if missing := [name for name in names if name not in known]:
        task["secrets"] = {**known, **dict.fromkeys(missing)}


def complete(task: Mapping[str, Any], values: Mapping[str, str | None]) -> dict[str, str]:
    """All values that are known here, but those that stand in the file."""
    declared = task.get("secrets")
    if isinstance(declared, list):
        declared = {str(name).removeprefix("secrets:"): None for name in declared}
    open_names = [] if not isinstance(declared, dict) else [
        str(name) for name, value in declared.items() if value is None and values.get(str(name)) is None
    ]  # fmt: skip
    found = {name: os.environ[name] for name in open_names if name in os.environ}
    return {**found, **{name: value for name, value in values.items() if value is not None}}


def _read(file: Path) -> dict[str, str]:
    """Lines NAME=VALUE; empty ones, `# ...`, `export` before and quotes around are as in a shell."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        told = getattr(error, "strerror", None) or "it is no text (UTF-8)"
        raise CliError(f"--secret-file {file}: {told}", code=USAGE) from None
    values = {}
    for number, line in enumerate(lines, start=1):
        text = line.strip().removeprefix("export ").strip()
        if not text or text.startswith("#"):
            continue
        name, equals, value = text.partition("=")
        if not equals or not _NAME.fullmatch(name):
            raise CliError(f"--secret-file {file}:{number}: it is not NAME=VALUE", code=USAGE)
        quoted = len(value) >= 2 and value[0] == value[-1] and value[0] in "'\""
        values[name] = value[1:-1] if quoted else value
    return values

"""Values of a task's secrets: from options, a file, or this shell's environment. No error says a value.

What has no value here is the platform's to know (`cairn secret set`), or to say that it is not known.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cairn._cli.errors import USAGE, CliError

_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")


def given(pairs: Sequence[str], file: Path | None) -> dict[str, str | None]:
    """What `--secret NAME[=VALUE]` and `--secret-file` say; options go first. None: it is not known here.
    Raises `CliError`."""
    values: dict[str, str | None] = {} if file is None else {**_read(file)}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not _NAME.fullmatch(name):
            raise CliError(
                "--secret: give NAME, or NAME=VALUE; the name has letters, digits and _", code=USAGE
            )
        values[name] = value if equals else os.environ.get(name)
    return values


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

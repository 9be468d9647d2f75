"""`cairn up --detach`: the same `cairn up` in a session of its own; its first word comes through a pipe."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from cairn_server import home as homes
from cairn_server import logs
from cairn_server.backends.program import SetupError
from cairn_server.supervisor import StartError
from cairn_server.up import Ready

_READY_WITHIN = 120.0


def start(data: Path, arguments: Sequence[str] = ()) -> Ready:
    """Starts `cairn up` on `data` with further `arguments` and returns when it is ready.

    Raises `SetupError` or `StartError` with its reason where it is not.
    """
    home = homes.prepare(data)
    ear, mouth = os.pipe()
    try:
        with logs.open_for(home.logs, "up") as output:
            subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "cairn_server",
                    "up",
                    "--data",
                    str(data),
                    "--ready-fd",
                    str(mouth),
                    *arguments,
                ],
                pass_fds=[mouth],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        os.close(mouth)
        mouth = -1
        return _listen(ear, data, log=logs.path(home.logs, "up"))
    finally:
        os.close(ear)
        if mouth >= 0:
            os.close(mouth)


def tell(handle: int, ready: Ready) -> None:
    """The child's word: it is ready."""
    _say(handle, {"url": ready.url, "token": ready.token, "hint": ready.hint, "setup": ready.setup})


def tell_failure(handle: int, error: Exception) -> None:
    """The child's word: it is not going to be ready."""
    _say(handle, {"error": str(error)})


def _say(handle: int, word: dict[str, object]) -> None:
    with os.fdopen(handle, "w") as mouth:
        mouth.write(json.dumps(word))


def _listen(ear: int, data: Path, *, log: Path) -> Ready:
    end = time.monotonic() + _READY_WITHIN
    heard = b""
    while True:
        readable, _, _ = select.select([ear], [], [], max(0.0, end - time.monotonic()))
        if not readable:
            raise StartError(f"Cairn was not ready after {_READY_WITHIN:.0f} s; see {log}")
        some = os.read(ear, 65536)
        if not some:
            break
        heard += some
    if not heard:
        raise StartError(f"cairn up ended without a word; the end of {log}:\n{logs.tail(log)}")
    word = json.loads(heard)
    if "error" in word:
        raise SetupError(word["error"])
    return Ready(word["url"], word["token"], data, word["hint"], word["setup"])

"""What a run without a job does beside logging: it tells of its surroundings, is sent, and ends."""

from __future__ import annotations

import logging
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from cairn import _config, _local
from cairn._segments import media_folder

if TYPE_CHECKING:
    from cairn._run import Run

_log = logging.getLogger("cairn")


def begin(run: Run, *, capture: bool, console: str | None) -> None:
    """Begins to send what the run logs, where a server is configured, and to look around."""
    _begin_shipping(run)
    if console is not None:
        _begin_console(run, console)
    if capture:
        _begin_capture(run)


def finish(run: Run, *, failed: bool, message: str, timeout: float) -> None:
    """Records the end, and waits up to `timeout` seconds until the server has everything."""
    failed, message = failed or bool(run._error), message or run._error
    if run._console is not None:
        run._console.stop()
    if run._capture is not None:
        run._capture.stop()
    now = datetime.now(UTC)
    ended = {"time": now.isoformat().replace("+00:00", "Z"), "succeeded": not failed, "message": message}
    run._writer.json("run_finished", ended)
    run.finished = True
    run._writer.close()
    run._record |= {
        "state": "failed" if failed else "succeeded", "message": message, "end_time": now.timestamp(),
    }  # fmt: skip
    _save_end(run)
    if left_out := run._media_left_out:
        _log.warning("cairn: %d images and tables of this run were left out: too many waited here", left_out)
    if lost := run.dropped - left_out + run._writer.waiting_points:
        _log.warning("cairn: %d points of this run are lost: %s was full", lost, run.spool)
    if run._shipping is not None:
        if run._shipping.finish(timeout):
            run._record["sent"] = True
            _save_end(run)
        else:
            _log.warning(
                "cairn: %s of this run are not sent yet: `cairn sync%s` sends them", _kept(run), _place(run)
            )


def _kept(run: Run) -> str:
    """How much of it lies here."""
    size = 0.0
    for folder in (run.spool, media_folder(run.spool)):
        for path in folder.rglob("*"):
            with suppress(OSError):  # it was sent in the meantime
                size += path.stat().st_size if path.is_file() else 0
    return f"{size / 2**20:,.1f} MiB" if size >= 2**20 else f"{size / 2**10:,.1f} KiB"


def _place(run: Run) -> str:
    """The directory that its store is in, where that is not the one of now."""
    place = run.directory.parents[len(_local.FOLDER.parts)]
    return "" if place == Path.cwd() else f" {place}"


def _save_end(run: Run) -> None:
    try:
        run._save_record()
    except OSError as error:  # a full disk, most likely, of which the spool has told; the rest goes on
        _log.info("cairn: the end of the run is not in %s: %s", run.directory, error)


def _begin_shipping(run: Run) -> None:
    try:
        config = _config.load_config()
    except _config.ConfigError as error:
        run._problem("config", f"no server is used: {error}", error)
        return
    if not config.url or not config.token:
        return
    from cairn._shipping import Shipping

    run._shipping = Shipping(
        run.spool, team=run.team, run_uid=run.uid, url=config.url, token=lambda: _config.configured().token
    )
    run._shipping.start()


def _begin_console(run: Run, console: str) -> None:
    if console != "fd":
        text = f"console={console!r} is nothing that can be recorded; it is 'fd' or None"
        run._problem("console", text, ValueError(text))
        return
    from cairn._console import ConsoleCapture

    made = ConsoleCapture(run.spool)
    try:
        made.start()
    except (OSError, RuntimeError) as error:
        run._problem("console", f"what is printed is not recorded: {error}", error)
        return
    run._console = made


def _begin_capture(run: Run) -> None:
    from cairn._capture import Capture

    run._capture = Capture(run._writer, run.directory)
    try:
        run._capture.start()
    except RuntimeError:  # no more threads, or the interpreter ends
        run._capture = None

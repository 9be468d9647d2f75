"""Sending what local runs logged to a server, from a thread or afterwards."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cairn._config import load_config
from cairn._local import local_parts, write_record
from cairn._segments import media_folder
from cairn._ship import Shipper

if TYPE_CHECKING:
    from cairn._batch import Identity


def identity(team: str, run_uid: str) -> Identity:
    from cairn._batch import Identity

    return Identity(team=team, run_uid=run_uid)


def bus_url(url: str, token: str) -> str:
    """Where the platform's bus is: CAIRN_BUS_URL, or what the platform says. Raises OSError or ValueError."""
    if given := os.environ.get("CAIRN_BUS_URL"):
        return given
    from cairn._http import Api, ApiError, Unreachable

    try:
        platform = Api(url, token, timeout=5.0, patience=0.0).get("/api/v1/platform")
    except (ApiError, Unreachable) as error:
        raise OSError(str(error)) from error
    if not platform.get("bus_url"):
        raise ValueError(f"{url} does not say where its bus is")
    return str(platform["bus_url"])


def sync(directory: str | os.PathLike[str] = ".", *, timeout: float = 60.0) -> dict[str, bool]:
    """Sends what ended runs in a directory's local store hold to the configured server, once and for all.

    Returns, by run uid, whether the server has everything now. Raises ValueError without a server.
    """
    if not load_config().url:
        raise ValueError("no server is configured: `cairn login`, or set CAIRN_URL and CAIRN_TOKEN")
    records = {run.folder: _record(run.folder) for run in local_parts(directory)}
    sent: dict[str, bool] = {}
    for folder, record in records.items():
        if not record.get("sent") and not _still_logging(record):
            uid = str(record["uid"])
            sent[uid] = _send(folder, record, timeout) and sent.get(uid, True)
    return sent


def _send(folder: Path, record: dict[str, Any], timeout: float) -> bool:
    config = load_config()
    shipper = Shipper(
        folder / "spool", identity(str(record.get("team") or config.team), str(record["uid"])),
        bus_url=lambda: bus_url(config.url, config.token), token=lambda: config.token,
        gateway=config.url,
    )  # fmt: skip
    shipper.start()
    deadline = time.monotonic() + timeout
    sent = shipper.wait_empty(timeout)
    shipper.stop()
    sent = _send_media(folder, record, deadline - time.monotonic(), alone=shipper.answered) and sent
    if sent:
        write_record(folder, {**record, "sent": True})
    return sent


def _send_media(folder: Path, record: dict[str, Any], timeout: float, *, alone: bool) -> bool:
    from cairn._http import Api
    from cairn._uploading import Uploading

    config = load_config()
    uploading = Uploading(
        media_folder(folder / "spool"), team=str(record.get("team") or config.team),
        api=lambda: Api(config.url, config.token, patience=5.0), alone=lambda: alone,
    )  # fmt: skip
    sent = uploading.wait_empty(timeout)
    uploading.stop()
    return sent


def _record(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "run.json").read_text()))


def _still_logging(record: dict[str, Any]) -> bool:
    return record.get("state") == "running" and Path(f"/proc/{record.get('pid')}").exists()

"""A job's life in the terminal: what happened when, for how long, and why."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from cairn._cli.looks import state_text
from cairn._cli.text import clean, clock, moment, span
from cairn._http import Json

_WORDS = {"ATTEMPT_ENDED": "ended", "PROVISIONING": "", "FINISHED": "finished"}
_LASTING = ("WAITING", "HELD", "ADMITTED", "LAUNCHING", "RUNNING", "PREEMPTING", "RECOVERING")


def timeline(run: Json | None, moments: Sequence[Json]) -> Table:
    """Time, what, how long, why. A run without a job has but its own beginning and end."""
    table = Table.grid(padding=(0, 2))
    resumed = {
        int(each.get("number", 0)): each.get("resumed_step") for each in (run or {}).get("attempts", [])
    }
    for one in moments or _of_run(run or {}):
        kind = str(one.get("kind", ""))
        table.add_row(
            "", Text(clock(moment(one.get("time"))), "dim"), _what(kind, one), Text(_took(kind, one), "dim"),
            _why(kind, one, resumed),
        )  # fmt: skip
    return table


def _of_run(run: Json) -> list[Json]:
    began, ended = run.get("start_time") or run.get("create_time"), run.get("end_time")
    by = str(run.get("creator") or "").rsplit("/", 1)[-1]
    moments: list[Json] = [
        {"kind": "RUNNING", "time": began, "end_time": ended, "text": f"by {by}" if by else ""}
    ]
    if ended:
        moments.append({"kind": "FINISHED", "time": ended, "state": run.get("state", "")})
    return moments


def _what(kind: str, one: Json) -> Text:
    attempt = int(one.get("attempt") or 0)
    if kind in ("ATTEMPT_ENDED", "FINISHED"):
        told = Text(f"attempt {attempt} " if attempt else "")
        return told.append_text(state_text(str(one.get("state", ""))))
    words = _WORDS.get(kind, kind.lower().replace("_", " "))
    if kind == "LAUNCHING" and attempt:
        words = f"attempt {attempt} launching"
    return Text(words)


def _took(kind: str, one: Json) -> str:
    """How long that lasted, or has lasted so far."""
    start, end = moment(one.get("time")), moment(one.get("end_time"))
    if kind not in _LASTING or start is None:
        return ""
    return span(end - start) if end is not None else f"{span(time.time() - start)} so far"


def _why(kind: str, one: Json, resumed: dict[int, Any]) -> Text:
    text = clean(str(one.get("text") or ""))
    cause = clean(str(one.get("cause") or "")).removeprefix("CAUSE_").lower().replace("_", " ")
    if cause in ("", "unspecified") or kind == "FINISHED":
        cause = ""
    words = Text()
    step = resumed.get(int(one.get("attempt") or 0))
    if kind == "RUNNING" and step is not None:
        words.append(f"from the checkpoint at step {step}  ", style="magenta")
    style = "yellow" if kind in ("WAITING", "HELD") else "dim" if kind != "ATTEMPT_ENDED" else ""
    return words.append(": ".join(part for part in (cause, text) if part), style=style)

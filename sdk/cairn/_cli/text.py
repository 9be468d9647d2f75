"""Words and numbers for a terminal. What a server says is cleaned before it is shown."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

# CSI, OSC (title, links; to BEL or ST, or to the line's end), and other escapes of two bytes.
_SGR = r"\x1b\[[0-9;:]*m"
_ESCAPES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\|$)|\x1b[ -/]*[0-~]?|\x9b[0-?]*[@-~]"
)
_ESCAPES_BUT_SGR = re.compile(rf"(?!{_SGR})(?:{_ESCAPES.pattern})")
# C0 but tab, DEL, C1, and the marks that turn the direction of text around.
_CONTROL = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_CONTROL_BUT_ESC = re.compile("[\x00-\x08\x0a-\x1a\x1c-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_CONTROL_IN_JSON = re.compile("[\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_BARS = "▁▂▃▄▅▆▇█"


def clean(text: str) -> str:
    """Text without escapes and control characters, on one line."""
    return _CONTROL.sub("", _ESCAPES.sub("", text.replace("\n", " ")))


def clean_line(text: str, *, colors: bool) -> str:
    """A log line: what a progress bar overwrote is gone; colours stay where they are wanted."""
    text = text.rstrip("\r").rsplit("\r", 1)[-1]
    if not colors:
        return clean(text)
    kept = _CONTROL_BUT_ESC.sub("", _ESCAPES_BUT_SGR.sub("", text))
    return kept + "\x1b[0m" if "\x1b[" in kept else kept


def json_text(value: Any, *, indent: int | None = None) -> str:
    """JSON, with what would steer a terminal written as escapes: a reader gets the very same value."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    # Those below U+0020 are escaped as JSON wants it; the line ends between values stay.
    return _CONTROL_IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def moment(value: Any) -> float | None:
    """Seconds since 1970 of an RFC 3339 text, or of a number; None for neither."""
    if isinstance(value, int | float):
        return float(value)
    if not isinstance(value, str) or not value:
        return None
    try:
        # Nanoseconds are more than Python reads.
        text = re.sub(r"(\.\d{6})\d+", r"\1", value.replace("Z", "+00:00"))
        return datetime.fromisoformat(text).astimezone(UTC).timestamp()
    except ValueError:
        return None


def span(seconds: float | None) -> str:
    """A duration in its two largest units: 4s, 3m 20s, 5h 2m, 3d 4h."""
    if seconds is None or not math.isfinite(seconds):
        return "-"
    whole = max(0, round(seconds))
    for size, unit, below, smaller in ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if whole >= size:
            rest = whole % size // below
            return f"{whole // size}{unit} {rest}{smaller}" if rest else f"{whole // size}{unit}"
    return f"{whole}s"


def ago(text: str) -> float | None:
    """The seconds of a duration such as 90s, 10m, 2h or 3d; None where it is none."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd])", text.strip())
    return float(found[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[found[2]] if found else None


def age(then: float | None) -> str:
    """How long ago, in one unit."""
    return "-" if then is None else span(time.time() - then).split(" ")[0]


def clock(then: float | None) -> str:
    """The local time of day; with the date when it was not today."""
    if then is None:
        return "-"
    local = datetime.fromtimestamp(then)
    today = datetime.now().date() == local.date()
    return local.strftime("%H:%M:%S" if today else "%Y-%m-%d %H:%M")


def day(then: float) -> str:
    """The local date."""
    return datetime.fromtimestamp(then).strftime("%Y-%m-%d")


def size(count: float) -> str:
    """Bytes in binary units."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def number(value: Any) -> float | None:
    """A metric's value as the API writes it: a number, or "NaN", "Infinity", "-Infinity"."""
    if value is None or isinstance(value, bool):
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def digits(value: Any) -> str:
    """Four significant digits, whole numbers as they are."""
    found = number(value)
    if found is None:
        return "-"
    if math.isfinite(found) and found == int(found) and abs(found) < 1e7:
        return f"{int(found)}"
    return f"{found:.4g}"


def plain(value: Any) -> str:
    """A param's value."""
    if isinstance(value, float):
        return (
            f"{int(value)}"
            if math.isfinite(value) and value == int(value) and abs(value) < 1e15
            else f"{value:g}"
        )
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return clean(str(value))


def sparkline(values: Sequence[Any], width: int = 24) -> str:
    """The course of a metric in `width` characters; a gap where it was no number."""
    numbers = [found if found is not None and math.isfinite(found) else None for found in map(number, values)]
    if len(numbers) > width:
        # The last of each bucket, so that the end of the line is the end of the metric.
        numbers = [numbers[(place + 1) * len(numbers) // width - 1] for place in range(width)]
    finite = [found for found in numbers if found is not None]
    if not finite:
        return ""
    low, high = min(finite), max(finite)
    scale = (len(_BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(" " if found is None else _BARS[round((found - low) * scale)] for found in numbers)


def short(uid: str, others: Sequence[str] | None, least: int = 12) -> str:
    """The shortest beginning of `uid`, of at least 12 letters, that none of the others has.

    Where the others are not known (None) so much that siblings made in the same millisecond differ.
    """
    if others is None:
        return uid[:18]
    for length in range(least, len(uid)):
        if not any(other != uid and other.startswith(uid[:length]) for other in others):
            return uid[:length]
    return uid

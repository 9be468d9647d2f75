"""Whatever a training loop passes, made into what may be stored."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, SupportsFloat, cast

from cairn import _frames

if TYPE_CHECKING:
    from cairn.media import Media

_MAX_DEPTH = 20
#: The greatest step that a server takes, and that JSON and a spreadsheet still count exactly.
LAST_STEP = 2**53 - 1


def flatten(
    values: Mapping[Any, Any], report: Callable[[str], None]
) -> tuple[dict[str, float], dict[str, list[Media]]]:
    """Metrics and media by key, nested mappings joined by `/`. What is neither is reported and left out."""
    flat: dict[str, float] = {}
    media: dict[str, list[Media]] = {}
    _flatten_into(flat, media, "", values, 0, report)
    return flat, media


def whole_step(step: object) -> int:
    """A step as an integer. Raises ValueError."""
    if hasattr(step, "item"):
        step = step.item()
    if isinstance(step, (int, float)) and 0 <= step <= LAST_STEP and step == int(step):
        return int(step)
    raise ValueError(f"a step is a whole number from 0 on, at most 2**53 - 1, not {step!r:.80}")


def plain(value: Any, depth: int = 0) -> Any:
    """A param as JSON has it; what JSON has no word for becomes text."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if depth < _MAX_DEPTH:
        if isinstance(value, Mapping):
            return {str(key): plain(inner, depth + 1) for key, inner in value.items()}
        if isinstance(value, (list, tuple, set, frozenset)):
            return [plain(inner, depth + 1) for inner in value]
        if callable(getattr(value, "item", None)) and getattr(value, "size", 2) == 1:
            return plain(value.item(), depth + 1)
    return str(value)


def _flatten_into(
    flat: dict[str, float], media: dict[str, list[Media]], prefix: str, values: Mapping[Any, Any], depth: int,
    report: Callable[[str], None],
) -> None:  # fmt: skip
    for name, value in values.items():
        key = f"{prefix}/{name}" if prefix else str(name)
        try:
            if isinstance(value, Mapping):
                if depth >= _MAX_DEPTH:
                    raise ValueError(f"the metrics under {key!r} are nested too deeply")
                _flatten_into(flat, media, key, value, depth + 1, report)
            elif (found := _media(value)) is not None:
                media[_frames.check_key(key)] = found
            else:
                flat[_frames.check_key(key)] = _scalar(key, value)
        except Exception as error:  # user objects may raise anything from item() or float()
            text = str(error)
            told = repr(key)[:40] in text
            report(text if told else f"the value of {key!r:.80} is no number: {text:.200}")


def _media(value: object) -> list[Media] | None:
    """What is to be looked at: there is none before somebody has imported what makes it."""
    if "cairn.media" not in sys.modules:
        return None
    from cairn._media import taken_out

    return taken_out(value)


def _scalar(key: str, value: object) -> float:
    if isinstance(value, (bool, int, float)):
        return float(value)
    if not isinstance(value, (str, bytes)):
        if callable(item := getattr(value, "item", None)):  # numpy, torch, jax: raises if it is not one value
            value = item()
        if hasattr(value, "__float__"):
            return float(cast(SupportsFloat, value))
    raise ValueError(f"the value of {key!r:.80} is no number: {type(value).__name__}")


def name(given: Any, what: str, *, empty: bool = False) -> str:
    """A metric's name as it was given. Raises ValueError for what cannot be one."""
    if not isinstance(given, str) or len(given.encode(errors="replace")) > 250 or not (given or empty):
        raise ValueError(f"{what}: {given!r:.80} is no name of 1 to 250 bytes")
    return given

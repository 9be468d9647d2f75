"""How versions of models, datasets and evaluations are shown."""

from __future__ import annotations

from typing import Any

from rich.text import Text

from cairn._cli.errors import USAGE, CliError
from cairn._cli.looks import main_metrics
from cairn._cli.text import clean, digits
from cairn._http import Json

Ref = tuple[str, str]


def ref_of(name: object) -> str:
    """`digits:v7` of a version's resource name; of a run's its id."""
    text = clean(str(name or ""))
    artifact, found, number = text.partition("/artifacts/")[2].partition("/versions/")
    return f"{artifact}:v{number}" if found else text.rsplit("/", 1)[-1]


def split(ref: str) -> Ref:
    """Name and version (`latest` where none is given)."""
    name, _, which = ref.partition(":")
    if not name:
        raise CliError(f"{clean(ref)!r} names nothing: write NAME or NAME:v3", code=USAGE)
    return name, which or "latest"


def exactly(ref: str) -> Ref:
    """Name and version of what is to be changed: `latest` is not meant by silence."""
    name, _, which = ref.partition(":")
    if not name or not which:
        raise CliError(f"{clean(ref)!r} names no version: write {clean(name) or 'NAME'}:v3", code=USAGE)
    return name, which


def metrics_of(version: Json) -> dict[str, Any]:
    """What was measured of a version, as it was saved with it."""
    found = (version.get("metadata") or {}).get("metrics")
    return found if isinstance(found, dict) else {}


def metrics_line(metrics: dict[str, Any], count: int = 3) -> Text:
    """acc 0.98  loss 0.1: those that say most."""
    text = Text()
    for key in main_metrics(dict.fromkeys(metrics, 0.0), count):
        text.append("  " if text else "").append(f"{clean(key)} ", style="dim").append(digits(metrics[key]))
    return text


def others(aliases: list[str]) -> Text:
    """A version's aliases but `latest`, which says nothing that its number does not."""
    return Text(", ".join(clean(each) for each in aliases if each != "latest"), "green")


def latest_of_each(versions: list[Json]) -> list[Json]:
    """Of versions that come newest first the newest of each artifact."""
    found: dict[str, Json] = {}
    for each in versions:
        found.setdefault(str(each.get("name", "")).partition("/versions/")[0], each)
    return list(found.values())

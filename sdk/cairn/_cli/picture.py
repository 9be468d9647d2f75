"""Curves of several runs as a picture, by matplotlib, which is asked for only here."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path

from cairn._axes import axis_of, places, with_axes
from cairn._cli.errors import CliError
from cairn._cli.text import clean, number
from cairn._http import Json
from cairn.client import Client

# Of a curve: as many as a picture has dots across.
BUCKETS = 1000
# A legend of more names hides what it explains.
MOST_NAMES = 20
_WIDTH, _HEIGHT, _DOTS = 9.0, 4.0, 150  # inches, inches a metric, dots an inch


def check_library() -> None:
    """Raises CliError where matplotlib is missing."""
    if importlib.util.find_spec("matplotlib") is None:
        raise CliError(
            "--png needs matplotlib, which is not installed here", hint="pip install 'cairn-sdk[plot]'"
        )


def draw(
    client: Client, path: Path, uids: Sequence[str], keys: Sequence[str], *, names: Mapping[str, str],
    axes: Mapping[str, Mapping[str, str]],
) -> None:  # fmt: skip
    """Writes a PNG with a panel for each metric: a curve for each run, and a band from the least to the
    greatest where a dot stands for more than one step.

    `names` and `axes` (see `cairn.define_metric`) are by the run's resource name. Raises CliError.
    """
    from matplotlib.figure import Figure

    asked = with_axes(axes.values(), keys)[:100]
    series = {
        (str(each["run"]), str(each["key"])): each for each in client.series(uids, asked, max_buckets=BUCKETS)
    }
    figure = Figure(figsize=(_WIDTH, _HEIGHT * len(keys)), layout="constrained")
    for panel, key in zip(figure.subplots(len(keys), squeeze=False)[:, 0], keys, strict=True):
        over = set()
        for run, name in names.items():
            if (each := series.get((run, key))) is None:
                continue
            axis = series.get((run, axis_of(axes.get(run, {}), key)))
            over.add(str(axis["key"]) if axis else "step")
            _curve(panel, each, places(each.get("steps", []), axis), name)
        # Dollar signs would be read as mathematics.
        panel.set_title(_plain(key), loc="left")
        panel.set_xlabel(_plain(", ".join(sorted(over))))
        panel.grid(alpha=0.3)
        if 0 < len(panel.get_lines()) <= MOST_NAMES:
            panel.legend(fontsize="small")
    try:
        figure.savefig(path, format="png", dpi=_DOTS)
    except OSError as error:
        raise CliError(f"{path} cannot be written: {error.strerror or error}") from error


def _curve(panel: object, series: Json, across: Sequence[float], name: str) -> None:
    """What is no number is a gap."""
    order = sorted((place for place, x in enumerate(across) if x == x), key=lambda place: across[place])
    xs = [across[place] for place in order]
    least, greatest, last = (
        [float("nan") if (value := number(series[of][place])) is None else value for place in order]
        for of in ("min", "max", "last")
    )
    marker = "o" if len(xs) == 1 else ""
    (line,) = panel.plot(xs, last, label=_plain(name), linewidth=1.2, marker=marker)  # type: ignore[attr-defined]
    if not series.get("exact"):
        panel.fill_between(xs, least, greatest, color=line.get_color(), alpha=0.2, linewidth=0)  # type: ignore[attr-defined]


def _plain(text: str) -> str:
    return clean(text).replace("$", r"\$")

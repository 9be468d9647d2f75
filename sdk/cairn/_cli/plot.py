"""Curves in a terminal, four by two dots a character."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rich.text import Text

from cairn._cli.text import digits

COLORS = ("blue", "red", "green", "magenta", "yellow", "cyan", "bright_blue", "bright_red")
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))


@dataclass(frozen=True, slots=True)
class Curve:
    """Points of one run, by step."""

    label: str
    points: Sequence[tuple[float, float]]


def plot(curves: Sequence[Curve], *, width: int = 72, height: int = 14) -> list[Text]:
    """Lines of text: a frame with both axes, the curves, a legend. Empty where no value is finite."""
    curves = [Curve(c.label, [p for p in c.points if all(map(math.isfinite, p))]) for c in curves]
    xs = [x for curve in curves for x, _ in curve.points]
    ys = [y for curve in curves for _, y in curve.points]
    if not xs:
        return []
    (left, right), (low, high) = (min(xs), max(xs)), (min(ys), max(ys))
    grid = _Grid(width, height)
    for index, curve in enumerate(curves):
        dots = [
            (_place(x, left, right, width * 2 - 1), height * 4 - 1 - _place(y, low, high, height * 4 - 1))
            for x, y in curve.points
        ]
        for start, end in zip(dots, dots[1:] or dots, strict=False):
            grid.line(start, end, index)
    return _framed(grid, curves, (left, right), (low, high))


class _Grid:
    """Characters of eight dots; a character has the colour of the curve drawn on it last."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self._cells: dict[tuple[int, int], tuple[int, int]] = {}

    def line(self, start: tuple[int, int], end: tuple[int, int], curve: int) -> None:
        steps = max(abs(end[0] - start[0]), abs(end[1] - start[1]), 1)
        for step in range(steps + 1):
            x = start[0] + round((end[0] - start[0]) * step / steps)
            y = start[1] + round((end[1] - start[1]) * step / steps)
            cell = (x // 2, y // 4)
            bits = self._cells.get(cell, (0, 0))[0] | _DOTS[y % 4][x % 2]
            self._cells[cell] = (bits, curve)

    def row(self, y: int) -> Text:
        text = Text()
        for x in range(self.width):
            bits, curve = self._cells.get((x, y), (0, 0))
            text.append(
                chr(0x2800 + bits) if bits else " ", style=COLORS[curve % len(COLORS)] if bits else ""
            )
        return text


def _framed(
    grid: _Grid, curves: Sequence[Curve], across: tuple[float, float], up: tuple[float, float]
) -> list[Text]:
    labels = {0: digits(up[1]), grid.height - 1: digits(up[0])}
    margin = max(len(label) for label in labels.values())
    rows = []
    for y in range(grid.height):
        rows.append(Text(f"{labels.get(y, ''):>{margin}} │", style="dim").append_text(grid.row(y)))
    rows.append(Text(" " * margin + " └" + "─" * grid.width, style="dim"))
    ends = f"{digits(across[0])}{digits(across[1]):>{max(1, grid.width - len(digits(across[0])))}}"
    rows.append(Text(" " * (margin + 2) + ends, style="dim"))
    legend = Text(" " * (margin + 2))
    for index, curve in enumerate(curves):
        legend.append("━ ", style=COLORS[index % len(COLORS)]).append(f"{curve.label}   ")
    return [*rows, legend]


def _place(value: float, low: float, high: float, most: int) -> int:
    return round((value - low) / (high - low) * most) if high > low else most // 2

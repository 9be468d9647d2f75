"""Histograms, tables and images for `cairn.log`: what a person looks at, beside the numbers.

    cairn.log({"weights": cairn.Histogram(layer.weight)}, step=step)
    cairn.log_table("samples", columns=["input", "output"], rows=pairs, step=step)
    cairn.log_image("sample", figure, caption="epoch 3", step=step)

Making one costs nothing and never raises: it is looked at by `log`, in which what cannot be shown is a
warning. numpy, PIL, pandas, PyTorch or matplotlib are used where an object of theirs is given, and not else.
"""

from __future__ import annotations

import json
import math
import os
import sys
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cairn import _raster, _values

LARGEST = 16 * 2**20
LARGEST_TABLE = 8 * 2**20
MOST_ROWS = 10_000
MOST_COLUMNS = 1_000
MOST_BINS = 512
LONGEST_CELL = 10_000
LONGEST_CAPTION = 1_000
_JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Encoded:
    """The bytes of one, with what `cairn.job.v1.MediaItem` says of them."""

    kind: str
    media_type: str
    data: bytes
    facts: Mapping[str, Any] = field(default_factory=dict)


class Media:
    """What can be logged beside numbers."""

    def encode(self) -> Encoded:
        """Raises ValueError for what cannot be shown."""
        raise NotImplementedError


class Histogram(Media):
    """How values are spread: of an array, a tensor or any numbers, or counted already.

    `values` of any shape are counted into `bins` (1 to 512) of equal width; NaN and infinities are counted
    apart. `counts` (n) with `edges` (n + 1, rising) are taken as they are.
    """

    def __init__(self, values: Any = None, *, bins: int = 64, counts: Any = None, edges: Any = None) -> None:
        self._values, self._bins, self._counts, self._edges = values, bins, counts, edges

    def encode(self) -> Encoded:
        """Raises ValueError for values that are no numbers, and for counts that do not fit their edges."""
        left_out = 0
        if self._counts is not None or self._edges is not None:
            counts, edges = _given(self._counts, self._edges)
        else:
            if not isinstance(self._bins, int) or not 1 <= self._bins <= MOST_BINS:
                raise ValueError(f"a histogram has 1 to {MOST_BINS} bins, not {self._bins!r}")
            counts, edges, left_out = _counted(self._values, self._bins)
        told = {"edges": edges, "counts": counts, "left_out": left_out}
        return Encoded("KIND_HISTOGRAM", _JSON, json.dumps(told, separators=(",", ":")).encode())


class Table(Media):
    """Rows under named columns: `rows` are sequences or dicts, or the one object given is a data frame.

    At most 10,000 rows by 1,000 columns and 8 MiB; a text cell longer than 10,000 characters is cut.
    """

    def __init__(self, rows: Any = (), columns: Sequence[Any] | None = None, *, caption: str = "") -> None:
        self._rows, self._columns, self._caption = rows, columns, caption

    def encode(self) -> Encoded:
        """Raises ValueError for rows of other lengths than the columns', and for too much."""
        rows, columns = _rows(self._rows, self._columns)
        if len(rows) > MOST_ROWS or len(columns) > MOST_COLUMNS:
            raise ValueError(
                f"a table has at most {MOST_ROWS:,} rows by {MOST_COLUMNS:,} columns, not {len(rows):,} by "
                f"{len(columns):,}: save it as an artifact"
            )
        for place, row in enumerate(rows):
            if len(row) != len(columns):
                raise ValueError(f"row {place} of the table has {len(row)} cells for {len(columns)} columns")
        told = {"columns": columns, "rows": [[_cell(cell) for cell in row] for row in rows]}
        data = json.dumps(told, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
        if len(data) > LARGEST_TABLE:
            raise ValueError(f"the table has {len(data):,} bytes, the most is {LARGEST_TABLE:,}")
        facts = {"rows": len(rows), "caption": _caption(self._caption)}
        return Encoded("KIND_TABLE", _JSON, data, facts)


class Image(Media):
    """A picture: a PNG, JPEG, GIF or WebP as a path or bytes; a PIL image; a matplotlib figure; or an array.

    Arrays and tensors are H x W or H x W x C with 1, 3 or 4 channels (tensors also C x H x W): uint8,
    booleans, or floats from 0 to 1. At most 16 MiB.
    """

    def __init__(self, image: Any, *, caption: str = "") -> None:
        self._image, self._caption = image, caption

    def encode(self) -> Encoded:
        """Raises ValueError or OSError for what is no such picture."""
        data = self._bytes()
        found = _raster.described(data)
        if found is None:
            raise ValueError("an image is a PNG, JPEG, GIF or WebP, and these bytes are none of them")
        if len(data) > LARGEST:
            raise ValueError(f"the image has {len(data):,} bytes, the most is {LARGEST:,}")
        facts = {"width": found.width, "height": found.height, "caption": _caption(self._caption)}
        return Encoded("KIND_IMAGE", found.media_type, data, facts)

    def _bytes(self) -> bytes:
        given = self._image
        if isinstance(given, (bytes, bytearray, memoryview)):
            return bytes(given)
        if isinstance(given, (str, os.PathLike)):
            with open(given, "rb") as file:
                return file.read(LARGEST + 1)
        if callable(getattr(given, "savefig", None)):
            return _raster.saved(lambda file: given.savefig(file, format="png"))
        if callable(getattr(given, "save", None)) and hasattr(given, "mode"):
            return _raster.saved(lambda file: given.save(file, format="PNG"))
        return _raster.png_of_array(as_array(given), channels_first=callable(getattr(given, "detach", None)))


def as_array(given: Any) -> Any:
    """A numpy array of what is one, or a tensor. Raises ValueError where it cannot be one."""
    numpy = sys.modules.get("numpy")
    if callable(detach := getattr(given, "detach", None)):
        given = detach().cpu()
        if "bfloat16" in str(getattr(given, "dtype", "")):
            given = given.float()
    if numpy is None:
        raise ValueError(f"{type(given).__name__}: arrays can be shown where numpy is imported")
    array = numpy.asarray(given)
    if array.dtype == object:
        raise ValueError(f"{type(given).__name__} is no array of numbers")
    return array


def _counted(values: Any, bins: int) -> tuple[list[int], list[float], int]:
    """Counts, edges, and how many were not finite."""
    if hasattr(values, "shape") or hasattr(values, "detach"):
        array = as_array(values)
        numpy = sys.modules["numpy"]
        flat = array.astype(float).ravel()
        finite = flat[numpy.isfinite(flat)]
        if not finite.size:
            return [0], [0.0, 1.0], int(flat.size)
        edges = _edges(float(finite.min()), float(finite.max()), bins)
        counts, _ = numpy.histogram(finite, bins=numpy.array(edges))
        return [int(count) for count in counts], edges, int(flat.size - finite.size)
    numbers = [float(value) for value in _flat(values)]
    kept = [number for number in numbers if math.isfinite(number)]
    if not kept:
        return [0], [0.0, 1.0], len(numbers)
    edges = _edges(min(kept), max(kept), bins)
    made = [0] * (len(edges) - 1)
    for number in kept:
        made[min(bisect_right(edges, number) - 1, len(made) - 1)] += 1
    return made, edges, len(numbers) - len(kept)


def _edges(low: float, high: float, bins: int) -> list[float]:
    """Edges that rise, from `low` to `high`; fewer where floats lie no closer."""
    if low == high:
        room = max(0.5, abs(low) * 1e-6)
        low, high = max(low - room, -sys.float_info.max), min(high + room, sys.float_info.max)
    share = [place / bins for place in range(bins + 1)]
    made = [low * (1 - part) + high * part for part in share]  # no overflow, however far apart they are
    made[0], made[-1] = low, high
    return sorted(set(made))


def _flat(values: Any) -> Iterable[Any]:
    if isinstance(values, (str, bytes)) or values is None:
        raise ValueError(f"a histogram is of numbers, not of {type(values).__name__}")
    for value in values:
        if isinstance(value, (list, tuple)):
            yield from _flat(value)
        else:
            yield value


def _given(counts: Any, edges: Any) -> tuple[list[int], list[float]]:
    if counts is None or edges is None:
        raise ValueError("a histogram that was counted already has `counts` and `edges`")
    made, bounds = [int(count) for count in counts], [float(edge) for edge in edges]
    if not 1 <= len(made) <= MOST_BINS or len(bounds) != len(made) + 1:
        raise ValueError(
            f"a histogram has 1 to {MOST_BINS} counts and one edge more: "
            f"{len(made)} and {len(bounds)} were given"
        )
    if min(made) < 0 or not all(map(math.isfinite, bounds)) or sorted(set(bounds)) != bounds:
        raise ValueError("counts are not negative, and edges are finite and rise")
    return made, bounds


def _rows(rows: Any, columns: Sequence[Any] | None) -> tuple[list[Sequence[Any]], list[str]]:
    if callable(getattr(rows, "to_dict", None)) and hasattr(rows, "columns"):  # a data frame
        rows, columns = rows.values.tolist(), list(rows.columns) if columns is None else columns
    elif callable(getattr(rows, "tolist", None)):
        rows = as_array(rows).tolist()
    listed = list(rows)
    if listed and all(isinstance(row, Mapping) for row in listed):
        names = list(dict.fromkeys(name for row in listed for name in row)) if columns is None else columns
        return [[row.get(name) for name in names] for row in listed], [str(name) for name in names]
    if columns is None:
        raise ValueError("a table has `columns`, or its rows are dicts")
    return [row if isinstance(row, (list, tuple)) else [row] for row in listed], [
        str(name) for name in columns
    ]


def _cell(value: Any) -> Any:
    if isinstance(value, str):
        return value[:LONGEST_CELL]
    if value is None or isinstance(value, (bool, int)):
        return value
    made = _values.plain(value)
    if isinstance(made, (dict, list)):
        made = json.dumps(made, ensure_ascii=False)
    return made[:LONGEST_CELL] if isinstance(made, str) else made


def _caption(text: Any) -> str:
    return str(text)[:LONGEST_CAPTION].encode(errors="replace").decode()

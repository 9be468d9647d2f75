"""Columns of numbers as packed fields of a message, without a step in Python for each. Pure."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[Any]
_BITS, _MORE = 7, 0x80
# Wire type of whatever has a length.
_SIZED = 2


def doubles(field: int, values: Numbers) -> bytes:
    """A `repeated double`."""
    return _sized(field, values.astype("<f8").tobytes())


def integers(field: int, values: Numbers) -> bytes:
    """A `repeated int64`."""
    return _sized(field, _varints(values.astype(np.int64)))


def _varints(values: npt.NDArray[np.int64]) -> bytes:
    rest = values.view(np.uint64)
    columns = []
    while True:
        low, rest = rest & np.uint64(_MORE - 1), rest >> np.uint64(_BITS)
        columns.append((low | np.where(rest, np.uint64(_MORE), np.uint64(0))).astype(np.uint8))
        if not rest.any():
            break
    table = np.stack(columns, axis=1)
    # A number ends with the first byte that says so; what stands behind it is not sent.
    sent = np.ones(table.shape, np.bool_)
    sent[:, 1:] = np.logical_and.accumulate(table[:, :-1] >= _MORE, axis=1)
    return table[sent].tobytes()


def _sized(field: int, raw: bytes) -> bytes:
    return _varint(field << 3 | _SIZED) + _varint(len(raw)) + raw if raw else b""


def _varint(number: int) -> bytes:
    return _varints(np.array([number], np.int64))

"""Columns of numbers as packed fields of a message, without a step in Python for each. Pure."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[Any]
_BITS, _MORE = 7, 0x80
_SHIFTS = np.arange(0, 64, _BITS, dtype=np.uint64)
# The first number that takes more than 1, 2 ... bytes.
_ENDS = np.uint64(1) << _SHIFTS[1:]
# Wire type of whatever has a length.
_SIZED = 2


def doubles(field: int, values: Numbers) -> bytes:
    """A `repeated double`."""
    return _sized(field, values.astype("<f8").tobytes())


def integers(field: int, values: Numbers) -> bytes:
    """A `repeated int64`."""
    return _sized(field, _varints(values.astype(np.int64)))


def _varints(values: npt.NDArray[np.int64]) -> bytes:
    if not len(values):
        return b""
    rest = values.view(np.uint64)
    longest = -(-max(1, int(rest.max()).bit_length()) // _BITS)
    table = (rest[:, None] >> _SHIFTS[:longest]).astype(np.uint8)
    table |= _MORE
    # A number ends with the last byte in which there is something of it; what stands behind it is not sent.
    sizes = np.searchsorted(_ENDS[: longest - 1], rest, side="right")
    table[np.arange(len(rest)), sizes] &= _MORE - 1
    return table[np.arange(longest) <= sizes[:, None]].tobytes()


def _sized(field: int, raw: bytes) -> bytes:
    return _varint(field << 3 | _SIZED) + _varint(len(raw)) + raw if raw else b""


def _varint(number: int) -> bytes:
    out = bytearray()
    while number >= _MORE:
        out.append(number & (_MORE - 1) | _MORE)
        number >>= _BITS
    out.append(number)
    return bytes(out)

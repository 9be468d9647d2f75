"""ClickHouse's Native format, written by hand: whole columns, no conversion of single values.

Ten times cheaper for the processor than inserting rows, and the same bytes go to the embedded engine and to
a server. Only the column types that the tracker's tables have are here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Numbers: TypeAlias = npt.NDArray[Any]
Indexes: TypeAlias = npt.NDArray[np.int64]

_TYPES = {"int64": "Int64", "int32": "Int32", "uint32": "UInt32", "float64": "Float64"}
_DICTIONARY_VERSION = (1).to_bytes(8, "little")
# "Has its own keys" and "updates the dictionary", over the index's type.
_DICTIONARY_FLAGS = 0x600
# Index types by their number: the narrowest that has a place for each text.
_INDEXES = ("<u1", "<u2", "<u4")


@dataclass(frozen=True, slots=True)
class Labels:
    """A column of few distinct texts (LowCardinality): the texts, and an index into them for each row."""

    texts: Sequence[str]
    indexes: Indexes

    def __len__(self) -> int:
        return len(self.indexes)


Column: TypeAlias = Numbers | Labels | Sequence[str]


def encode(columns: dict[str, Column]) -> bytes:
    """One block of columns, all of the same length.

    Raises ValueError for columns of unequal length or of a number type that no table has.
    """
    lengths = {len(column) for column in columns.values()}
    if len(lengths) != 1:
        raise ValueError(f"columns of unequal length: {sorted(lengths)}")
    out = [_varint(len(columns)), _varint(lengths.pop())]
    for name, column in columns.items():
        out.append(_text(name))
        out.extend(_column(column))
    return b"".join(out)


def _column(column: Column) -> list[bytes]:
    if isinstance(column, Labels):
        return [_text("LowCardinality(String)"), *_labels(column)]
    if isinstance(column, np.ndarray):
        kind = _TYPES.get(column.dtype.name)
        if kind is None:
            raise ValueError(f"no column type for {column.dtype}")
        return [_text(kind), np.ascontiguousarray(column).tobytes()]
    return [_text("String"), *map(_text, column)]


def _labels(column: Labels) -> list[bytes]:
    if not len(column):
        return []
    kind = (len(column.texts) > 0xFF) + (len(column.texts) > 0xFFFF)
    return [
        _DICTIONARY_VERSION,
        (_DICTIONARY_FLAGS | kind).to_bytes(8, "little"),
        len(column.texts).to_bytes(8, "little"),
        *map(_text, column.texts),
        len(column.indexes).to_bytes(8, "little"),
        column.indexes.astype(_INDEXES[kind]).tobytes(),
    ]


def _text(text: str) -> bytes:
    raw = text.encode()
    return _varint(len(raw)) + raw


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)

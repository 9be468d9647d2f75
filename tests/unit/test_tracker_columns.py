"""Whole columns, in ClickHouse's format and in a message's: what comes out is what went in."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairn.tracker.v1 import metric_pb2
from cairn_tracker import packed
from cairn_tracker.native import Labels, decode, encode

INTEGERS = st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(0, 300), max_size=40)
FLOATS = st.lists(st.floats(), max_size=40)


@given(INTEGERS, FLOATS)
def test_packed_columns_are_the_bytes_that_the_library_writes(steps: list[int], values: list[float]) -> None:
    message = metric_pb2.Series(steps=steps, last=values)
    made = packed.integers(4, np.array(steps, np.int64)) + packed.doubles(6, np.array(values, np.float64))
    assert made == message.SerializeToString()


@given(st.lists(st.lists(st.tuples(st.text(max_size=300), st.integers(0, 2**31), st.floats())), max_size=4))
def test_blocks_that_are_read_are_the_rows_that_were_written(
    blocks: list[list[tuple[str, int, float]]],
) -> None:
    raw = b""
    for rows in blocks:
        texts = sorted({text for text, _, _ in rows})
        raw += encode(
            {
                "key": Labels(texts, np.array([texts.index(text) for text, _, _ in rows], np.int64)),
                "step": np.array([step for _, step, _ in rows], np.int64),
                "value": np.array([value for _, _, value in rows], np.float64),
            }
        )
    found = decode(raw)
    wanted = [row for rows in blocks for row in rows]
    if not wanted:
        assert found == {}
        return
    key, step, value = found["key"], found["step"], found["value"]
    assert isinstance(key, Labels)
    assert isinstance(step, np.ndarray)
    assert isinstance(value, np.ndarray)
    assert [key.texts[place] for place in key.indexes] == [text for text, _, _ in wanted]
    assert step.tolist() == [number for _, number, _ in wanted]
    assert [repr(one) for one in value.tolist()] == [repr(one) for _, _, one in wanted]


def test_many_texts_take_wider_indexes_and_another_type_is_refused() -> None:
    texts = [f"key{number}" for number in range(70_000)]
    found = decode(encode({"key": Labels(texts, np.arange(70_000))}))["key"]
    assert isinstance(found, Labels)
    assert (found.texts[-1], found.indexes[-1]) == ("key69999", 69_999)
    with pytest.raises(ValueError, match="String"):
        decode(encode({"text": ["a"]}))
    assert decode(b"") == {}

"""The embedded engine's readers: what is asked while events are taken in waits for nobody and is brief."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cairn_common.errors import InvalidArgument
from cairn_tracker.clickhouse import ClickHouse, clickhouse


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[ClickHouse]:
    async with clickhouse(f"chdb://{tmp_path}/store", readers=1) as made:
        yield made


async def test_a_brief_question_is_answered_while_all_readers_are_busy(store: ClickHouse) -> None:
    busy = [asyncio.create_task(store.query("SELECT sleep(2)", {})) for _ in range(2)]
    assert await store.query_briefly("SELECT {x:Int64}", {"x": 7}) == [[7]]
    assert not any(task.done() for task in busy)
    await asyncio.gather(*busy)


async def test_a_brief_question_that_is_not_is_refused_and_the_next_is_answered(store: ClickHouse) -> None:
    with pytest.raises(InvalidArgument):
        await store.query_briefly("SELECT length(groupArray(number)) FROM numbers({n:Int64})", {"n": 10**9})
    assert await store.query_briefly("SELECT 1", {}) == [[1]]

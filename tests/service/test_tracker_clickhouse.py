"""The embedded engine: what is asked while events are taken in waits for nobody; its migrations."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from importlib.resources import files
from pathlib import Path

import pytest

from cairn_common.errors import InvalidArgument
from cairn_common.ids import new_uid
from cairn_tracker import layout, points
from cairn_tracker.batch import Event, RunKey
from cairn_tracker.clickhouse import ClickHouse, clickhouse
from tests.harness.tracker import TEAM, Spool

_ENGINES = "SELECT name, engine FROM system.tables WHERE database = currentDatabase() AND name LIKE 'points%'"


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


async def test_points_of_an_older_release_are_there_after_the_migrations(
    store: ClickHouse, tmp_path: Path
) -> None:
    """The first eight, points, then all: each row is moved once."""
    every = Path(str(files("cairn_tracker") / "migrations" / "clickhouse"))
    older = tmp_path / "older"
    older.mkdir()
    for file in sorted(every.glob("*.sql"))[:8]:
        shutil.copy(file, older)
    assert await store.migrate(older) == list(range(1, 9))
    spool = Spool(new_uid(), attempt=1)
    found = layout.points([Event(RunKey(TEAM, spool.run), 1e9, spool.points(range(5), loss=[1.0] * 5))])
    await points.add(store, found)
    await points.add(store, found)
    rows = await store.query("SELECT run, key, step, value FROM points ORDER BY step", {})
    assert len(rows[0]) == 10
    await store.migrate(every)
    assert await store.query("SELECT run, key, step, value FROM points ORDER BY step", {}) == rows
    assert await store.query(_ENGINES, {}) == [["points"], ["MergeTree"]]

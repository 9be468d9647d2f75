"""Console lines out of the embedded engine: pages of what is searched for are those of brute force."""

from __future__ import annotations

import random
import re
from collections.abc import AsyncIterator
from importlib.resources import files
from pathlib import Path

import pytest

from cairn_tracker import logs
from cairn_tracker.batch import Line, RunKey
from cairn_tracker.clickhouse import ClickHouse, clickhouse

RUN, OTHER = RunKey("main", "01" + "l" * 24), RunKey("main", "01" + "m" * 24)
WORDS = ("Loss", "out of memory", "OUT OF MEMORY", "epoch", "100%", "a_b", "ſtep", "step")
GREPS = (
    "",
    "out of memory",
    "(?i)out of +MEMORY",
    "100%",
    "a_b",
    "(?i)STEP",
    "^epoch",
    "nowhere to be",
    "Loss|epoch",
)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[ClickHouse]:
    async with clickhouse(f"chdb://{tmp_path}/store", readers=1) as made:
        await made.migrate(files("cairn_tracker") / "migrations" / "clickhouse")
        yield made


def lines(run: RunKey, first: int, count: int, chance: random.Random) -> list[Line]:
    return [
        Line(run, "w", 1, number % 3, "stdout", number, 1e9 + number, " ".join(chance.sample(WORDS, k=2)))
        for number in range(first, first + count)
    ]


async def pages(store: ClickHouse, query: logs.Query, most: int) -> list[tuple[int, str]]:
    """All pages, of which none but the last has fewer lines than asked for."""
    found: list[tuple[int, str]] = []
    cursor = 0
    while cursor < query.last:
        page, cursor = await logs.read(store, query, after=cursor, most=most)
        assert len(page) <= most
        found += [(line.number, line.text) for line in page]
    return found


@pytest.mark.parametrize("seed", range(3))
async def test_pages_of_what_is_searched_for_are_those_of_brute_force_also_of_lines_written_twice(
    store: ClickHouse, seed: int
) -> None:
    chance = random.Random(seed)
    shown: dict[int, Line] = {}
    counts = {RUN: 0, OTHER: 0}
    for _ in range(6):
        made = lines(RUN, counts[RUN] + 1, chance.randint(1, 60), chance)
        if chance.random() < 0.6:
            # The tracker died before its commit, and the batch was cut otherwise when it came again.
            await logs.add(store, lines(RUN, counts[RUN] + 1, len(made), chance), counts)
        counts |= await logs.add(store, [*made, *lines(OTHER, counts[OTHER] + 1, 5, chance)], counts)
        shown |= {line.number: line for line in made}
    for grep in GREPS:
        for rank in (-1, 1):
            query = logs.Query(*RUN, last=counts[RUN], grep=grep, rank=rank)
            # RE2 and Python fold the long s alike.
            wanted = [
                (number, line.text)
                for number, line in sorted(shown.items())
                if re.search(grep, line.text) and rank in (-1, line.rank)
            ]
            assert await pages(store, query, chance.choice([1, 7, 1000])) == wanted, grep
            cursor = await logs.tail(store, query, 5)
            page, _ = await logs.read(store, query, after=cursor, most=1000)
            told = [(line.number, line.text) for line in page]
            # The last ones; of lines that were chosen before they were written again fewer are left.
            assert told == wanted[len(wanted) - len(told) :]
            assert len(told) == min(5, len(wanted)) or not query.every

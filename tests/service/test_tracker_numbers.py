"""The numbers of params as searches look them up: always those that the params themselves have."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cairn_common.ids import new_uid
from tests.harness import servers
from tests.harness.tracker import TEAM, Client, Tracker, start_tracker

KEYS = ("a", "b", "c", "a.b", "b.c", "a.b.c", "", "ü")
VALUES = (0, 1, 1.5, -2e-3, 1e400, "3", " 4e2 ", "1e99", "many", "NaN", "", True, None, [7, 8], {})
_INSERT = """
INSERT INTO runs (team, uid, create_time, update_time, state, experiment, has_job, params)
VALUES ($1, $2, now(), now(), 2, 'numbers', false, $3::jsonb)
"""
# As a search would read it from the params (`search._config`).
_BY_PARAMS = """
SELECT run_number(coalesce(params -> $3, params #> $4)) FROM runs WHERE team = $1 AND uid = $2
"""
_BY_TABLE = "SELECT number FROM run_numbers WHERE team = $1 AND run_uid = $2 AND key = $3"


@pytest.fixture(scope="module")
def tracker(
    tmp_path_factory: pytest.TempPathFactory,
    nats_url: str,
    database_url: Callable[[str], str],
    s3: servers.S3,
) -> Iterator[Tracker]:
    folder = tmp_path_factory.mktemp("tracker")
    server = start_tracker(folder, nats_url=nats_url, postgres_url=database_url("tracker"), s3=s3)
    yield server
    server.stop()


def params(chance: random.Random, depth: int = 0) -> dict[str, Any]:
    """Names with dots in them hide what the same way leads to, at every depth."""
    made = {}
    for key in chance.sample(KEYS, k=chance.randint(0, 5)):
        deeper = depth < 3 and chance.random() < 0.4
        made[key] = params(chance, depth + 1) if deeper else chance.choice(VALUES)
    return made


async def test_the_numbers_of_params_are_those_that_the_params_have_also_after_they_change(
    tracker: Tracker,
) -> None:
    chance = random.Random(34)
    # All ways that a search may name, to one more step than there is.
    ways = [*KEYS, *(f"{one}.{other}" for one in KEYS for other in KEYS), "a.b.a.b", "b.c.b.c.a", "x" * 1001]
    async with Client(tracker) as client:
        db = client.postgres
        for _ in range(60):
            uid = new_uid()
            await db.execute(_INSERT, TEAM, uid, json.dumps(params(chance)).replace("Infinity", "1e400"))
            for change in (None, params(chance), {}):
                if change is not None:
                    text = json.dumps(change).replace("Infinity", "1e400")
                    await db.execute(
                        "UPDATE runs SET params = $3::jsonb WHERE team = $1 AND uid = $2", TEAM, uid, text
                    )
                for way in ways:
                    wanted = await db.fetchval(_BY_PARAMS, TEAM, uid, way, way.split("."))
                    found = [row["number"] for row in await db.fetch(_BY_TABLE, TEAM, uid, way)]
                    assert found == ([] if wanted is None else [wanted]), way
            await db.execute("DELETE FROM runs WHERE team = $1 AND uid = $2", TEAM, uid)
            assert not await db.fetchval("SELECT count(*) FROM run_numbers WHERE run_uid = $1", uid)

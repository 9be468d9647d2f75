"""Searches for runs over PostgreSQL, against the same question asked of Python."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from google.protobuf import struct_pb2
from grpc import StatusCode, aio

from cairn.tracker.v1 import run_pb2, tracker_pb2
from cairn_common.ids import new_uid
from tests.harness import servers
from tests.harness.tracker import STRANGER, TEAM, Client, Spool, Tracker, run_name, start_tracker


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


Made = dict[str, dict[str, Any]]
# The bus is shared with other tests, whose runs are this team's, too.
EXPERIMENT = "searches"


async def make_runs(client: Client, count: int) -> Made:
    """Runs by name, with what was said of each."""
    chance = random.Random(5)
    made: Made = {}
    events = []
    for number in range(count):
        said: dict[str, Any] = {
            "uid": new_uid(),
            "lr": chance.choice([0.1, 0.01, 0.001, "0.02", "adaptive", None]),
            "deep": chance.choice([1, 2, None]),
            "flag": chance.choice([True, False, None]),
            "tags": chance.sample(["night", "it's", 'say "x"'], k=chance.randint(0, 2)),
            "acc": chance.choice([0.5, 0.9, 0.95, math.nan, None]),
        }
        params = {key: said[key] for key in ("lr", "flag") if said[key] is not None}
        if said["deep"] is not None:
            params["model"] = {"depth": said["deep"]}
        run = run_pb2.Run(display_name=f"run-{number:02}", tags=said["tags"], experiment=EXPERIMENT)
        run.params.CopyFrom(struct_pb2.Struct())
        run.params.update(params)
        await client.runs.CreateRun(
            tracker_pb2.CreateRunRequest(parent=f"teams/{TEAM}", run_id=said["uid"], run=run)
        )
        if said["acc"] is not None:
            events.append(Spool(said["uid"], attempt=0).points([1, 2], acc=[0.99, said["acc"]]))
        made[run.display_name] = said
    await client.publish(*events)
    for event in events:
        await client.applied(event)
    return made


async def names(client: Client, size: int = 7, **fields: str) -> list[str]:
    """All pages of a search among our runs, each run once."""
    found: list[str] = []
    token = ""
    while True:
        answer = await client.runs.ListRuns(
            tracker_pb2.ListRunsRequest(
                parent=f"teams/{TEAM}",
                experiment=EXPERIMENT,
                page_size=size,
                page_token=token,
                **fields,  # type: ignore[arg-type]
            )
        )
        found += [run.display_name for run in answer.runs]
        token = answer.next_page_token
        if not token:
            assert len(found) == len(set(found))
            return found


def number(value: Any) -> float | None:
    try:
        return None if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return None


def less(value: Any, than: float) -> bool:
    return (found := number(value)) is not None and found < than


QUESTIONS: list[tuple[str, Callable[[dict[str, Any]], bool]]] = [
    ("config.lr < 0.05", lambda run: less(run["lr"], 0.05)),
    ("not config.lr < 0.05", lambda run: not less(run["lr"], 0.05)),
    ("config.lr == 0.02", lambda run: run["lr"] == "0.02"),
    ("config.lr == 'adaptive'", lambda run: run["lr"] == "adaptive"),
    ("config.lr != 'adaptive'", lambda run: run["lr"] != "adaptive"),
    ("config.lr == null", lambda run: run["lr"] is None),
    ("config.lr in (0.1, 'adaptive')", lambda run: run["lr"] in (0.1, "adaptive")),
    ("config.lr =~ '^ad.*e$'", lambda run: run["lr"] == "adaptive"),
    ("config.model.depth >= 2", lambda run: run["deep"] == 2),
    ("config.flag == true", lambda run: run["flag"] is True),
    ("config.flag != true", lambda run: run["flag"] is not True),
    ('"night" in tags', lambda run: "night" in run["tags"]),
    ('"it\'s" not in tags', lambda run: "it's" not in run["tags"]),
    (r'"say \"x\"" in tags', lambda run: 'say "x"' in run["tags"]),
    ("metrics.acc > 0.6", lambda run: run["acc"] in (0.9, 0.95)),
    ("metrics.acc < 2", lambda run: run["acc"] in (0.5, 0.9, 0.95)),
    ("0.95 <= metrics.acc", lambda run: run["acc"] == 0.95),
    ("max(metrics.acc) > 0.98", lambda run: run["acc"] is not None),
    ("min(metrics.acc) < 0.6", lambda run: run["acc"] == 0.5),
    ("metrics.acc == null", lambda run: run["acc"] is None),
    (
        'config.lr < 0.05 and (metrics.acc > 0.6 or "night" in tags) and not config.flag == true',
        lambda run: less(run["lr"], 0.05)
        and (run["acc"] in (0.9, 0.95) or "night" in run["tags"])
        and run["flag"] is not True,
    ),
    ("state in ('running', 'failed')", lambda run: True),
    ("state != 'running'", lambda run: False),
    ("name =~ '^run-1' and created > '2020-01-01'", lambda run: run["name"].startswith("run-1")),
    ("created > '2999-01-01' or ended != null", lambda run: False),
]  # fmt: skip


async def test_a_search_finds_what_python_finds_in_every_order_and_page(tracker: Tracker) -> None:
    async with Client(tracker) as client:
        made = await make_runs(client, 30)
        for name, said in made.items():
            said["name"] = name
        newest = sorted(made, reverse=True)
        for text, true in QUESTIONS:
            assert await names(client, filter=text) == [name for name in newest if true(made[name])], text
        values: dict[str, Callable[[dict[str, Any]], Any]] = {
            "metrics.acc": lambda run: None if run["acc"] is None or math.isnan(run["acc"]) else run["acc"],
            "config.model.depth": lambda run: run["deep"],
            "name": lambda run: run["name"],
        }
        for by, value in values.items():
            have = [name for name in newest if value(made[name]) is not None]
            none = [name for name in newest if value(made[name]) is None]
            rising = sorted(have, key=lambda name: value(made[name]))
            falling = sorted(have, key=lambda name: value(made[name]), reverse=True)
            assert await names(client, order_by=by) == rising + none
            assert await names(client, 3, order_by=f"{by} desc") == falling + none
            if by == "metrics.acc":  # of those that have a last one it is the least, too
                narrow = {"filter": "config.model.depth > 0 and not config.flag == true and metrics.acc > 0"}
                left = [name for name in falling if made[name]["flag"] is not True and made[name]["deep"]]
                left = [name for name in left if value(made[name]) > 0]
                assert await names(client, 2, order_by="min(metrics.acc) desc", **narrow) == left
        mixed = await names(client, 4, order_by="config.lr", filter="not config.flag == true")
        numbers = [number(made[name]["lr"]) for name in mixed]
        assert [item for item in numbers if item is not None] == sorted(
            item for item in numbers if item is not None
        )
        # Then texts, then runs without.
        rest = [made[name]["lr"] for name in mixed if number(made[name]["lr"]) is None]
        assert rest == sorted(rest, key=lambda item: item is None)
        assert len(mixed) == sum(said["flag"] is not True for said in made.values())


async def test_a_search_that_cannot_be_is_refused_and_shows_nobody_elses_runs(tracker: Tracker) -> None:
    async with Client(tracker) as client:
        spool = Spool(new_uid(), attempt=0, team="other")
        event = spool.points([1], theirs=[1.0])
        await client.publish(event)
        await client.applied(event)
        strangers, _ = client.calling(STRANGER)
        request = tracker_pb2.ListRunsRequest(
            parent="teams/other", filter="metrics.theirs > 0", order_by="metrics.theirs"
        )
        assert [run.name for run in (await strangers.ListRuns(request)).runs] == [
            run_name(spool.run, "other")
        ]
        assert await names(client, filter="metrics.theirs > 0 or name == 'theirs'") == []
        for fields in (
            {"filter": "name =~ '('"},
            {"filter": "name == 'a"},
            {"filter": "name == 'a\0'"},
            {"order_by": "tags"},
            {"filter": "metrics.a > 1", "page_token": "x"},
        ):
            with pytest.raises(aio.AioRpcError) as refused:
                await client.runs.ListRuns(
                    tracker_pb2.ListRunsRequest(parent=f"teams/{TEAM}", **fields)  # type: ignore[arg-type]
                )
            assert refused.value.code() is StatusCode.INVALID_ARGUMENT

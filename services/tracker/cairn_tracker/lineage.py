"""Lineage as a graph around one thing: what it comes from, and what came of it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from cairn_common.db import Database
from cairn_tracker.store import lineage as store
from cairn_tracker.store.lineage import RUN, Key, Runs, Versions
from cairn_tracker.store.runs import Reads

# Places among the nodes of what the second comes from, and of the second, and how (LineageEdge.Relation).
Edge: TypeAlias = tuple[int, int, int]
READ: Final = 1
MADE: Final = 2
SOURCE: Final = 3
ORIGIN: Final = 4


@dataclass(frozen=True, slots=True)
class Graph:
    """Nodes with their distances from the root, which is the first (below 0: up), the edges between them, and
    what is shown of the nodes, as columns."""

    keys: Sequence[Key]
    distances: Sequence[int]
    edges: Sequence[Edge]
    truncated: bool
    versions: Versions
    runs: Runs
    aliases: dict[int, list[str]]


async def trace(db: Database, team: str, root: Key, *, up: bool, down: bool, most: int) -> Graph:
    """What the root comes from (`up`), and what came of it (`down`): at most `most` nodes of each."""
    places: dict[Key, int] = {root: 0}
    truncated = False
    # Of each way the places that it reached; a node may be above the root and below it.
    ways: list[tuple[bool, list[int]]] = []
    for upward in [True] * up + [False] * down:
        found = await store.reached(db, team, root, up=upward, limit=most + 1)
        truncated = truncated or len(found) > most
        ways.append((upward, [places.setdefault(key, len(places)) for key in found[:most]]))
    keys = list(places)
    # PostgreSQL answers one while another is read here.
    (versions, runs), looked_up = await asyncio.gather(
        asyncio.gather(store.versions(db, team, keys), store.runs(db, team, keys)),
        asyncio.gather(*(_looked_up(db, team, places, keys, at, up=upward) for upward, at in ways)),
    )
    edges: dict[Edge, None] = {}
    steps: list[int | None] = [None] * len(keys)
    told = _told(places, versions, runs)
    for (upward, at), found_there in zip(ways, looked_up, strict=True):
        found_by_it = bytearray(len(keys))
        for place in at:
            found_by_it[place] = 1
        every = [*told, *found_there]
        between = [edge for edge in every if found_by_it[edge[0]] and found_by_it[edge[1]]]
        edges.update(dict.fromkeys(between))
        for place, distance in enumerate(distances(len(keys), between, up=upward)):
            if distance >= 0 and steps[place] is None:
                steps[place] = -distance if upward else distance
    return Graph(
        keys,
        [step or 0 for step in steps],
        list(edges),
        truncated,
        versions,
        runs,
        await store.aliases(db, team, versions),
    )


def _told(places: Mapping[Key, int], versions: Versions, runs: Runs) -> list[Edge]:
    """The edges that versions and runs tell of themselves."""
    made = zip(versions.places, versions.makers, strict=True)
    origins = zip(runs.places, runs.origins, strict=True)
    edges = [
        (places.get((RUN, uid), -1), place, relation)
        for relation, pairs in ((MADE, made), (ORIGIN, origins))
        for place, uid in pairs
        if uid
    ]
    return [edge for edge in edges if edge[0] >= 0]


async def _looked_up(
    db: Reads, team: str, places: Mapping[Key, int], keys: Sequence[Key], at: Sequence[int], *, up: bool
) -> list[Edge]:
    """The other edges between nodes, as they are found from the lower ones (`up`) or the upper ones."""
    reads = await store.reads(db, team, keys, at, up=up)
    sources = await store.sources(db, keys, at, up=up)
    edges = []
    for relation, pairs, far_is_run in ((READ, reads, not up), (SOURCE, sources, False)):
        for place, uid in pairs:
            other = places.get((far_is_run, uid))
            if other is not None:
                edges.append((other, place, relation) if up else (place, other, relation))
    return edges


def distances(count: int, edges: Sequence[Edge], *, up: bool) -> list[int]:
    """Steps of each of `count` nodes from the first one along the edges, against them with `up`; -1 for one
    that is not reached."""
    following: list[list[int]] = [[] for _ in range(count)]
    for source, target, _ in edges:
        if up:
            following[target].append(source)
        else:
            following[source].append(target)
    steps = [-1] * count
    steps[0] = 0
    waiting = deque([0])
    while waiting:
        at = waiting.popleft()
        for other in following[at]:
            if steps[other] < 0:
                steps[other] = steps[at] + 1
                waiting.append(other)
    return steps

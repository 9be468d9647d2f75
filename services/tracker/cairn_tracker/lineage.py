"""Lineage as a graph around one thing: what it comes from, and what came of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from cairn_tracker.store import lineage as store
from cairn_tracker.store.lineage import Edges, Key, Runs, Versions
from cairn_tracker.store.runs import Reads


@dataclass(frozen=True, slots=True)
class Graph:
    """Nodes with their distances from the root, which is the first (below 0: up); edges as (source, target,
    relation), the first two as places among the nodes; what is shown of the nodes, as columns."""

    keys: Sequence[Key]
    distances: Sequence[int]
    edges: Sequence[tuple[int, int, int]]
    truncated: bool
    versions: Versions
    runs: Runs
    aliases: dict[int, list[str]]


async def trace(db: Reads, team: str, root: Key, *, up: bool, down: bool, most: int) -> Graph:
    """What the root comes from (`up`), and what came of it (`down`): at most `most` nodes of each."""
    places: dict[Key, int] = {root: 0}
    steps: list[int] = [0]
    edges: dict[tuple[int, int, int], None] = {}
    truncated = False
    for upward in [True] * up + [False] * down:
        found = await store.reached(db, team, root, up=upward, limit=most + 1)
        truncated = truncated or len(found) > most
        found = found[:most]
        between = await store.edges(db, team, found, up=upward)
        away = distances(len(found), between, up=upward)
        at = []
        for key, distance in zip(found, away, strict=True):
            at.append(places.setdefault(key, len(places)))
            if at[-1] == len(steps):
                steps.append(-distance if upward else distance)
        edges.update(
            ((at[source], at[target], relation), None)
            for source, target, relation in zip(
                between.sources, between.targets, between.relations, strict=True
            )
        )
    keys = list(places)
    return Graph(
        keys,
        steps,
        list(edges),
        truncated,
        await store.versions(db, team, keys),
        await store.runs(db, team, keys),
        await store.aliases(db, team, keys),
    )


def distances(count: int, edges: Edges, *, up: bool) -> list[int]:
    """Steps of each of `count` nodes from the first one along the edges, against them with `up`."""
    near, far = (edges.targets, edges.sources) if up else (edges.sources, edges.targets)
    following: list[list[int]] = [[] for _ in range(count)]
    for one, other in zip(near, far, strict=True):
        following[one].append(other)
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

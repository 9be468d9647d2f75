"""LineageService."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from grpc import aio

from cairn.tracker.v1 import lineage_pb2, lineage_pb2_grpc
from cairn_common.auth import Access, Role, access
from cairn_common.db import Database
from cairn_common.errors import InvalidArgument
from cairn_common.rpc import caller
from cairn_tracker.api.keeping import version_of
from cairn_tracker.api.names import run_of, unknown_run
from cairn_tracker.artifacts import Artifacts
from cairn_tracker.lineage import Graph, trace
from cairn_tracker.store import runs
from cairn_tracker.store.artifacts import version_name
from cairn_tracker.store.lineage import RUN, VERSION, Key

NAME: Final = "cairn.tracker.v1.LineageService"
ACCESS: Mapping[str, Access] = {f"/{NAME}/TraceLineage": access(Role.VIEWER)}
_MOST: Final = 20_000
# gRPC takes 4 MiB.
_MOST_BYTES: Final = 3 * 2**20

Context = aio.ServicerContext[Any, Any]
Request = lineage_pb2.TraceLineageRequest


class LineageApi(lineage_pb2_grpc.LineageServiceServicer):
    """What things come from, and what came of them."""

    def __init__(self, *, db: Database, artifacts: Artifacts) -> None:
        self._db = db
        self._artifacts = artifacts

    async def TraceLineage(self, request: Request, context: Context) -> lineage_pb2.LineageGraph:
        """All that is reached from a version or a run."""
        if not 0 <= request.max_nodes <= _MOST:
            raise InvalidArgument(f"max_nodes: 0 to {_MOST:,}", field="max_nodes")
        team, root = await self._root(request.name)
        up, down = request.direction != Request.DOWN, request.direction != Request.UP
        most = request.max_nodes or _MOST
        while True:
            message = _message(team, await trace(self._db, team, root, up=up, down=down, most=most))
            if message.ByteSize() <= _MOST_BYTES:
                return message
            most //= 2

    async def _root(self, name: str) -> tuple[str, Key]:
        if "/versions/" in name:
            found = await version_of(self._artifacts, caller(), name, Role.VIEWER)
            return found.team, (VERSION, found.uid)
        key = run_of(caller(), name, Role.VIEWER)
        if await runs.line_count(self._db, key.team, key.uid) is None:
            raise unknown_run(key)
        return key.team, (RUN, key.uid)


def _message(team: str, graph: Graph) -> lineage_pb2.LineageGraph:
    message = lineage_pb2.LineageGraph(truncated=graph.truncated)
    # One message after the other in its place, its fields one by one: of thousands, copies and keywords are
    # what takes the time.
    add, nodes = message.nodes.add, []
    for (run, uid), steps in zip(graph.keys, graph.distances, strict=True):
        node = add()
        node.name = f"teams/{team}/runs/{uid}" if run else uid
        node.distance = steps
        nodes.append(node)
    told = graph.versions
    for place, artifact, number, kind, step, time, deleted in zip(
        told.places, told.artifacts, told.numbers, told.kinds, told.steps, told.times, told.deleted,
        strict=True,
    ):  # fmt: skip
        node = nodes[place]
        node.name = version_name(team, artifact, number)
        node.kind = kind
        node.create_time.seconds = time
        if step is not None:
            node.step = step
        if deleted:
            node.deleted = True
    for place, names in graph.aliases.items():
        nodes[place].aliases.extend(names)
    ran = graph.runs
    for place, name, state, time, code, commit in zip(
        ran.places, ran.names, ran.states, ran.times, ran.codes, ran.commits, strict=True
    ):
        node = nodes[place]
        node.state = state
        node.create_time.seconds = time
        node.display_name = name
        if code:
            node.code_digest = code
        if commit:
            node.git_commit = commit
    edge = message.edges.add
    for source, target, relation in graph.edges:
        one = edge()
        one.source = source
        one.target = target
        one.relation = relation  # type: ignore[assignment]
    return message

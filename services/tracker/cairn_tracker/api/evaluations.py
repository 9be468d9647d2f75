"""EvaluationService."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from grpc import aio

from cairn.tracker.v1 import artifact_pb2, evaluation_pb2, evaluation_pb2_grpc
from cairn_common.auth import Access, Role, access, require
from cairn_common.db import Database
from cairn_common.errors import InvalidArgument
from cairn_common.ids import parse_name
from cairn_common.rpc import caller
from cairn_tracker import wire
from cairn_tracker.api.keeping import version_of
from cairn_tracker.artifacts import Artifacts, known_kind
from cairn_tracker.board import Board, Row, board
from cairn_tracker.compare import is_minimized
from cairn_tracker.store.artifacts import version_name
from cairn_tracker.store.evaluations import evaluations

NAME: Final = "cairn.tracker.v1.EvaluationService"
ACCESS: Mapping[str, Access] = {f"/{NAME}/GetLeaderboard": access(Role.VIEWER)}
_MOST: Final = 2_000
_EVALUATION: Final = int(artifact_pb2.ARTIFACT_KIND_EVALUATION)
_MODEL: Final = int(artifact_pb2.ARTIFACT_KIND_MODEL)

Context = aio.ServicerContext[Any, Any]


class EvaluationApi(evaluation_pb2_grpc.EvaluationServiceServicer):
    """How models do on a dataset."""

    def __init__(self, *, db: Database, artifacts: Artifacts) -> None:
        self._db = db
        self._artifacts = artifacts

    async def GetLeaderboard(
        self, request: evaluation_pb2.GetLeaderboardRequest, context: Context
    ) -> evaluation_pb2.Leaderboard:
        """The newest evaluations on a dataset, ranked."""
        if not 0 <= request.tolerance < math.inf:
            raise InvalidArgument("tolerance: a number from 0 on", field="tolerance")
        team, artifact, number = await self._dataset(request.dataset)
        found = await evaluations(self._db, team, artifact, number=number, kind=_EVALUATION, limit=_MOST + 1)
        made = board(found[:_MOST], metric=request.metric, tolerance=request.tolerance)
        return _message(made, team, artifact, truncated=len(found) > _MOST)

    async def _dataset(self, name: str) -> tuple[str, str, int | None]:
        """Team, artifact and, where one is named, the version. Raises InvalidArgument for a model: models are
        on boards, they have none."""
        if "/versions/" in name:
            found = await version_of(self._artifacts, caller(), name, Role.VIEWER)
            _refuse_model(found.kind, found.artifact)
            return found.team, found.artifact, found.number
        parts = parse_name("teams/{team}/artifacts/{artifact}", name)
        team, artifact = parts["team"], parts["artifact"]
        require(caller(), team, Role.VIEWER)
        _refuse_model(await known_kind(self._db, team, artifact), artifact)
        return team, artifact, None


def _refuse_model(kind: int, artifact: str) -> None:
    if kind == _MODEL:
        raise InvalidArgument(
            f"dataset: {artifact} is a model; name a dataset that models were evaluated on",
            field="dataset",
        )


def _message(value: Board, team: str, dataset: str, *, truncated: bool) -> evaluation_pb2.Leaderboard:
    return evaluation_pb2.Leaderboard(
        dataset=f"teams/{team}/artifacts/{dataset}",
        metric=value.metric,
        minimized=is_minimized(value.metric, ()),
        metric_keys=value.metric_keys,
        rows=[_row(row, team, dataset) for row in value.rows],
        truncated=truncated,
    )


def _row(row: Row, team: str, dataset: str) -> evaluation_pb2.Leaderboard.Row:
    told = row.evaluation
    return evaluation_pb2.Leaderboard.Row(
        model=version_name(team, told.model, told.model_number),
        dataset=version_name(team, dataset, told.dataset_number),
        evaluation=version_name(team, told.evaluation, told.number),
        metrics=told.metrics,
        aliases=told.aliases,
        create_time=wire.stamp(told.create_time),
        regressions=[
            evaluation_pb2.Leaderboard.Regression(
                metric=one.metric,
                against=version_name(team, told.model, one.against),
                alias=one.alias,
                was=one.was,
                now=one.now,
            )
            for one in row.regressions
        ],
    )

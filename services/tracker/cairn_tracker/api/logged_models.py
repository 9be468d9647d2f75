"""LoggedModelService."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from grpc import aio

from cairn.tracker.v1 import logged_model_pb2, logged_model_pb2_grpc
from cairn_common.auth import Access, Role, access
from cairn_common.errors import InvalidArgument
from cairn_common.paging import page_size
from cairn_common.rpc import caller
from cairn_tracker import logged_model_search, model_names, wire_registry
from cairn_tracker.api.names import team_of, unknown_run
from cairn_tracker.batch import RunKey
from cairn_tracker.logged_model_search import Dataset, Order, Query
from cairn_tracker.logged_models import LoggedModels
from cairn_tracker.store.logged_models import Metric

NAME: Final = "cairn.tracker.v1.LoggedModelService"
ACCESS: Mapping[str, Access] = {
    f"/{NAME}/CreateLoggedModel": access(Role.MEMBER, run_token=True),
    f"/{NAME}/GetLoggedModel": access(Role.VIEWER, run_token=True),
    f"/{NAME}/UpdateLoggedModel": access(Role.MEMBER, run_token=True),
    f"/{NAME}/DeleteLoggedModel": access(Role.MEMBER),
    f"/{NAME}/SearchLoggedModels": access(Role.VIEWER, run_token=True),
    f"/{NAME}/LogModelMetrics": access(Role.MEMBER, run_token=True),
}

_MOST: Final = 1_000
_LONGEST_ID: Final = 256
# As float8 holds them; MLflow's databases hold no infinity.
_LARGEST: Final = 1.7976931348623157e308

Context = aio.ServicerContext[Any, Any]


class LoggedModelApi(logged_model_pb2_grpc.LoggedModelServiceServicer):
    """Models that runs logged."""

    def __init__(self, *, models: LoggedModels) -> None:
        self._models = models

    async def CreateLoggedModel(
        self, request: logged_model_pb2.CreateLoggedModelRequest, context: Context
    ) -> logged_model_pb2.LoggedModel:
        """A new model, which waits for its files."""
        who = caller()
        team = team_of(who, request.parent, Role.MEMBER)
        wanted = request.logged_model
        if who.is_run and wanted.source_run_id != who.run_uid:
            raise unknown_run(RunKey(team, wanted.source_run_id))
        made = await self._models.create(
            team,
            experiment_id=_id("experiment_id", wanted.experiment_id),
            name=model_names.check_logged_name(wanted.display_name) if wanted.display_name else "",
            model_type=_id("model_type", wanted.model_type),
            source_run_id=_id("source_run_id", wanted.source_run_id),
            params=model_names.check_params(wanted.params),
            tags=model_names.check_tags(wanted.tags),
            creator=who.subject,
        )
        return wire_registry.logged_model(made)

    async def GetLoggedModel(
        self, request: logged_model_pb2.GetLoggedModelRequest, context: Context
    ) -> logged_model_pb2.LoggedModel:
        """A model by its id."""
        team = team_of(caller(), request.parent, Role.VIEWER)
        await self._own(team, request.model_id)
        found = await self._models.get(team, request.model_id, deleted=request.allow_deleted)
        return wire_registry.logged_model(found)

    async def UpdateLoggedModel(
        self, request: logged_model_pb2.UpdateLoggedModelRequest, context: Context
    ) -> logged_model_pb2.LoggedModel:
        """Its state, tags and params."""
        team = team_of(caller(), request.parent, Role.MEMBER)
        await self._own(team, request.model_id)
        if request.status not in logged_model_pb2.LoggedModel.Status.values():
            raise InvalidArgument(f"Unknown model status: {request.status}", field="status")
        changed = await self._models.change(
            team,
            request.model_id,
            status=request.status,
            params=model_names.check_params(request.add_params),
            set_tags=model_names.check_tags(request.set_tags),
            remove_tags=list(request.remove_tags),
        )
        return wire_registry.logged_model(changed)

    async def DeleteLoggedModel(
        self, request: logged_model_pb2.DeleteLoggedModelRequest, context: Context
    ) -> logged_model_pb2.LoggedModel:
        """Takes a model out of sight."""
        team = team_of(caller(), request.parent, Role.MEMBER)
        return wire_registry.logged_model(await self._models.delete(team, request.model_id))

    async def SearchLoggedModels(
        self, request: logged_model_pb2.SearchLoggedModelsRequest, context: Context
    ) -> logged_model_pb2.SearchLoggedModelsResponse:
        """Models that a filter holds for."""
        team = team_of(caller(), request.parent, Role.VIEWER)
        query = _query(team, request)
        size = page_size(request.page_size)
        place = logged_model_search.offset(request.page_token, query)
        found = await self._models.search(logged_model_search.search(query, offset=place, limit=size + 1))
        more = logged_model_search.page_token(query, place + size) if len(found) > size else ""
        return logged_model_pb2.SearchLoggedModelsResponse(
            models=[wire_registry.logged_model(one) for one in found[:size]], next_page_token=more
        )

    async def LogModelMetrics(
        self, request: logged_model_pb2.LogModelMetricsRequest, context: Context
    ) -> logged_model_pb2.LogModelMetricsResponse:
        """What a run measured of models."""
        team = team_of(caller(), request.parent, Role.MEMBER)
        _check_count(len(request.metrics), "metrics")
        by_model: dict[str, list[Metric]] = {}
        for one in request.metrics:
            by_model.setdefault(one.model_id, []).append(_metric(one))
            if caller().is_run and one.run_id != caller().run_uid:
                raise unknown_run(RunKey(team, one.run_id))
        for model_id in by_model:
            await self._own(team, model_id)
        await self._models.measure(team, by_model)
        return logged_model_pb2.LogModelMetricsResponse()

    async def _own(self, team: str, model_id: str) -> None:
        """Raises NotFound where a run's token asks for a model that its run did not log."""
        if caller().is_run:
            await self._models.of_run(team, model_id, caller().run_uid)


def _query(team: str, request: logged_model_pb2.SearchLoggedModelsRequest) -> Query:
    if not all(dataset.name for dataset in request.datasets):
        raise InvalidArgument("`dataset_name` in the `datasets` clause must be specified.", field="datasets")
    _check_count(len(request.experiment_ids), "experiment_ids")
    return Query(
        team=team,
        # A run's token finds what its run logged.
        source_run=caller().run_uid,
        experiments=list(request.experiment_ids),
        text=request.filter,
        datasets=[Dataset(one.name, one.digest) for one in request.datasets[:_MOST]],
        order_by=[
            Order(
                one.field_name,
                one.descending,
                Dataset(one.dataset_name, one.dataset_digest) if one.dataset_name else None,
            )
            for one in request.order_by
        ],
    )


def _metric(message: logged_model_pb2.ModelMetric) -> Metric:
    finite = math.isnan(message.value) or math.isfinite(message.value)
    return Metric(
        key=_id("key", message.key),
        value=message.value if finite else math.copysign(_LARGEST, message.value),
        timestamp=message.timestamp,
        step=message.step,
        run_id=_id("run_id", message.run_id),
        dataset_name=_text("dataset_name", message.dataset_name),
        dataset_digest=_text("dataset_digest", message.dataset_digest),
    )


def _id(field: str, text: str) -> str:
    if len(text) > _LONGEST_ID or not text.isprintable():
        raise InvalidArgument(
            f"'{field}' exceeds the maximum length of {_LONGEST_ID} characters, or has unprintable ones",
            field=field,
        )
    return text


def _text(field: str, text: str) -> str:
    return model_names.check_text(field, text)


def _check_count(count: int, field: str) -> None:
    if not 1 <= count <= _MOST:
        raise InvalidArgument(f"{field}: {count:,} were given; 1 to {_MOST:,} can be", field=field)

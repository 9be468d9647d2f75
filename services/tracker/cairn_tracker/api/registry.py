"""RegistryService."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from grpc import aio

from cairn.tracker.v1 import registered_model_pb2, registry_pb2, registry_pb2_grpc
from cairn_common.auth import Access, Role, access
from cairn_common.db import Database
from cairn_common.errors import InvalidArgument
from cairn_common.paging import page_size
from cairn_common.rpc import caller
from cairn_tracker import model_names, registry_search, wire_registry
from cairn_tracker.api.names import team_of
from cairn_tracker.registration import Registration, Registrations
from cairn_tracker.registry import Actor, Changes, Registry
from cairn_tracker.store import registry as store

NAME: Final = "cairn.tracker.v1.RegistryService"
ACCESS: Mapping[str, Access] = {
    f"/{NAME}/CreateRegisteredModel": access(Role.MEMBER, run_token=True),
    f"/{NAME}/GetRegisteredModel": access(Role.VIEWER, run_token=True),
    f"/{NAME}/UpdateRegisteredModel": access(Role.MEMBER),
    f"/{NAME}/DeleteRegisteredModel": access(Role.MEMBER),
    f"/{NAME}/SearchRegisteredModels": access(Role.VIEWER),
    f"/{NAME}/CreateModelVersion": access(Role.MEMBER, run_token=True),
    f"/{NAME}/GetModelVersion": access(Role.VIEWER, run_token=True),
    f"/{NAME}/UpdateModelVersion": access(Role.MEMBER),
    f"/{NAME}/DeleteModelVersion": access(Role.MEMBER),
    f"/{NAME}/SearchModelVersions": access(Role.VIEWER),
    f"/{NAME}/SetModelAlias": access(Role.MEMBER),
    f"/{NAME}/RemoveModelAlias": access(Role.MEMBER),
}

_MOST_VERSIONS: Final = 10_000
_LONGEST_LINK: Final = 500
_HIGHEST: Final = 2**31

Context = aio.ServicerContext[Any, Any]


class RegistryApi(registry_pb2_grpc.RegistryServiceServicer):
    """Models by name."""

    def __init__(self, *, db: Database, registry: Registry, registrations: Registrations) -> None:
        self._db = db
        self._registry = registry
        self._registrations = registrations

    async def CreateRegisteredModel(
        self, request: registry_pb2.CreateRegisteredModelRequest, context: Context
    ) -> registered_model_pb2.RegisteredModel:
        """Registers a model."""
        team = team_of(caller(), request.parent, Role.MEMBER)
        made = await self._registry.create(
            team,
            model_names.check_name(request.model),
            description=model_names.check_text("description", request.description),
            tags=model_names.check_tags(request.tags),
        )
        return wire_registry.model(made)

    async def GetRegisteredModel(
        self, request: registry_pb2.GetRegisteredModelRequest, context: Context
    ) -> registered_model_pb2.RegisteredModel:
        """A model by its name."""
        team = team_of(caller(), request.parent, Role.VIEWER)
        return wire_registry.model(await self._registry.get(team, model_names.check_name(request.model)))

    async def UpdateRegisteredModel(
        self, request: registry_pb2.UpdateRegisteredModelRequest, context: Context
    ) -> registered_model_pb2.RegisteredModel:
        """Renames, describes and tags."""
        team, actor = _changing(request.parent)
        changes = Changes(
            name=model_names.check_name(request.new_name, "new_name")
            if request.HasField("new_name")
            else None,
            **_described(request),
        )
        name = model_names.check_name(request.model)
        return wire_registry.model(await self._registry.change(team, name, changes, actor=actor))

    async def DeleteRegisteredModel(
        self, request: registry_pb2.DeleteRegisteredModelRequest, context: Context
    ) -> registered_model_pb2.RegisteredModel:
        """Takes a model out of sight, with its versions."""
        team, actor = _changing(request.parent)
        name = model_names.check_name(request.model)
        return wire_registry.model(await self._registry.delete(team, name, actor=actor))

    async def SearchRegisteredModels(
        self, request: registry_pb2.SearchRegisteredModelsRequest, context: Context
    ) -> registry_pb2.SearchRegisteredModelsResponse:
        """Models that a filter holds for."""
        team = team_of(caller(), request.parent, Role.VIEWER)
        size = page_size(request.page_size)
        place = registry_search.offset(request.page_token)
        wanted = registry_search.models(team, request.filter, request.order_by, offset=place, limit=size + 1)
        found = await store.search_models(self._db, wanted)
        more = registry_search.page_token(place + size) if len(found) > size else ""
        return registry_pb2.SearchRegisteredModelsResponse(
            models=[wire_registry.model(one) for one in found[:size]], next_page_token=more
        )

    async def CreateModelVersion(
        self, request: registry_pb2.CreateModelVersionRequest, context: Context
    ) -> registered_model_pb2.ModelVersion:
        """The next version."""
        who = caller()
        team = team_of(who, request.parent, Role.MEMBER)
        if len(request.run_link) > _LONGEST_LINK or not request.run_link.isprintable():
            raise InvalidArgument(
                f"'run_link' exceeds the maximum length of {_LONGEST_LINK} characters", field="run_link"
            )
        asked = Registration(
            team=team,
            model=model_names.check_name(request.model),
            source=request.source,
            run_id=model_names.check_text("run_id", request.run_id) if request.HasField("run_id") else None,
            model_id=request.model_id if request.HasField("model_id") else None,
            run_link=request.run_link,
            description=model_names.check_text("description", request.description),
            tags=model_names.check_tags(request.tags),
            creator=who.subject,
            only_run=who.run_uid,
        )
        return wire_registry.version(await self._registrations.create(asked))

    async def GetModelVersion(
        self, request: registry_pb2.GetModelVersionRequest, context: Context
    ) -> registered_model_pb2.ModelVersion:
        """A version by its number or an alias."""
        team = team_of(caller(), request.parent, Role.VIEWER)
        name = model_names.check_name(request.model)
        by_alias = request.WhichOneof("which") == "alias"
        which = model_names.check_alias(request.alias) if by_alias else _number(request.version)
        return wire_registry.version(await self._registry.version(team, name, which))

    async def UpdateModelVersion(
        self, request: registry_pb2.UpdateModelVersionRequest, context: Context
    ) -> registered_model_pb2.ModelVersion:
        """Describes, tags and stages."""
        team, actor = _changing(request.parent)
        stage = model_names.stage(request.stage) if request.HasField("stage") else None
        if request.archive_existing_versions and stage not in model_names.ACTIVE_STAGES:
            raise InvalidArgument(
                "Model version transition cannot archive existing model versions because "
                f"'{request.stage[:80]}' is not an Active stage. Valid stages are "
                f"{list(model_names.ACTIVE_STAGES)}",
                field="stage",
            )
        changes = Changes(stage=stage, archive=request.archive_existing_versions, **_described(request))
        name = model_names.check_name(request.model)
        changed = await self._registry.change_version(
            team, name, _number(request.version), changes, actor=actor
        )
        return wire_registry.version(changed)

    async def DeleteModelVersion(
        self, request: registry_pb2.DeleteModelVersionRequest, context: Context
    ) -> registered_model_pb2.ModelVersion:
        """Takes a version out of sight."""
        team, actor = _changing(request.parent)
        name = model_names.check_name(request.model)
        gone = await self._registry.delete_version(team, name, _number(request.version), actor=actor)
        return wire_registry.version(gone)

    async def SearchModelVersions(
        self, request: registry_pb2.SearchModelVersionsRequest, context: Context
    ) -> registry_pb2.SearchModelVersionsResponse:
        """Versions that a filter holds for."""
        team = team_of(caller(), request.parent, Role.VIEWER)
        size = page_size(request.page_size, most=_MOST_VERSIONS)
        place = registry_search.offset(request.page_token)
        wanted = registry_search.versions(
            team, request.filter, request.order_by, offset=place, limit=size + 1
        )
        found = await store.search_versions(self._db, wanted)
        more = registry_search.page_token(place + size) if len(found) > size else ""
        return registry_pb2.SearchModelVersionsResponse(
            versions=[wire_registry.version(one) for one in found[:size]], next_page_token=more
        )

    async def SetModelAlias(
        self, request: registry_pb2.SetModelAliasRequest, context: Context
    ) -> registered_model_pb2.ModelVersion:
        """Moves an alias."""
        team, actor = _changing(request.parent)
        name, alias = model_names.check_name(request.model), model_names.check_moved_alias(request.alias)
        moved = await self._registry.set_alias(team, name, _number(request.version), alias, actor=actor)
        return wire_registry.version(moved)

    async def RemoveModelAlias(
        self, request: registry_pb2.RemoveModelAliasRequest, context: Context
    ) -> registered_model_pb2.RegisteredModel:
        """Takes an alias away."""
        team, actor = _changing(request.parent)
        name, alias = model_names.check_name(request.model), model_names.check_alias(request.alias)
        return wire_registry.model(await self._registry.remove_alias(team, name, alias, actor=actor))


def _changing(parent: str) -> tuple[str, Actor]:
    who = caller()
    team = team_of(who, parent, Role.MEMBER)
    return team, Actor(who.subject, admin=who.may(team, Role.ADMIN))


def _described(
    request: registry_pb2.UpdateRegisteredModelRequest | registry_pb2.UpdateModelVersionRequest,
) -> dict[str, Any]:
    described = request.HasField("description")
    return {
        "description": model_names.check_text("description", request.description) if described else None,
        "set_tags": model_names.check_tags(request.set_tags),
        "remove_tags": [model_names.check_tag_key(key) for key in request.remove_tags],
    }


def _number(version: int) -> int:
    if not -_HIGHEST < version < _HIGHEST:
        raise InvalidArgument(f"version: {version} is no version's number", field="version")
    return version

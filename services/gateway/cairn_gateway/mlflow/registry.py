"""Registered models and their versions, in MLflow's words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from google.protobuf import timestamp_pb2

from cairn.tracker.v1 import registered_model_pb2, registry_pb2
from cairn_common.auth import Role
from cairn_gateway.mlflow.errors import invalid
from cairn_gateway.mlflow.fields import wrong_type
from cairn_gateway.mlflow.route import Asked, Route, empty, of_runs
from cairn_gateway.wire import Json

Model = registered_model_pb2.RegisteredModel
Version = registered_model_pb2.ModelVersion

_STAGES: Final = ("None", "Staging", "Production", "Archived")
_MOST_MODELS: Final = 1_000
_MOST_VERSIONS: Final = 200_000
# As many as an answer of the tracker takes: a page may have fewer than were asked for.
_IN_ONE_PAGE: Final = 5_000
_USUAL: Final = 100


async def create_model(asked: Asked) -> Json:
    """Registers a model."""
    request = registry_pb2.CreateRegisteredModelRequest(
        parent=asked.parent,
        model=asked.fields.text("name", required=True),
        tags=dict(asked.fields.pairs("tags")),
        description=asked.fields.text("description"),
    )
    return {
        "registered_model": model(await asked.call("RegistryService/CreateRegisteredModel", request, Model))
    }


async def get_model(asked: Asked) -> Json:
    """A model by its name."""
    return {"registered_model": model(await _model(asked))}


async def rename_model(asked: Asked) -> Json:
    """Gives a model another name."""
    return {
        "registered_model": model(await _change(asked, new_name=asked.fields.text("new_name", required=True)))
    }


async def update_model(asked: Asked) -> Json:
    """Describes a model; without a description it has none."""
    changed = await _change(asked, description=asked.fields.text("description"))
    return {"registered_model": model(changed)}


async def delete_model(asked: Asked) -> Json:
    """Takes a model out of sight, with its versions."""
    request = registry_pb2.DeleteRegisteredModelRequest(parent=asked.parent, model=_name(asked))
    await asked.call("RegistryService/DeleteRegisteredModel", request, Model)
    return empty()


async def search_models(asked: Asked) -> Json:
    """Models that a filter holds for."""
    request = registry_pb2.SearchRegisteredModelsRequest(
        parent=asked.parent,
        filter=asked.fields.text("filter"),
        order_by=asked.fields.text_items("order_by"),
        page_size=_page_size(asked, _MOST_MODELS),
        page_token=asked.fields.text("page_token"),
    )
    found = await asked.call(
        "RegistryService/SearchRegisteredModels", request, registry_pb2.SearchRegisteredModelsResponse
    )
    return _page("registered_models", [model(one) for one in found.models], found.next_page_token)


async def latest_versions(asked: Asked) -> Json:
    """The version with the highest number of each stage, or of those that are named."""
    stages = {_stage(text) for text in asked.fields.text_items("stages")}
    found = await _model(asked)
    return _list(
        "model_versions", [version(one) for one in found.latest_versions if not stages or one.stage in stages]
    )


async def set_model_tag(asked: Asked) -> Json:
    """Sets a tag of a model."""
    await _change(asked, set_tags={_key(asked): asked.fields.text("value")})
    return empty()


async def delete_model_tag(asked: Asked) -> Json:
    """Takes a tag from a model; one that it has not is no error."""
    await _change(asked, remove_tags=[_key(asked)])
    return empty()


async def set_alias(asked: Asked) -> Json:
    """Lets an alias name a version."""
    request = registry_pb2.SetModelAliasRequest(
        parent=asked.parent,
        model=_name(asked),
        alias=asked.fields.text("alias", required=True),
        version=_number(asked),
    )
    await asked.call("RegistryService/SetModelAlias", request, Version)
    return empty()


async def delete_alias(asked: Asked) -> Json:
    """Takes an alias away; one that the model has not is no error."""
    request = registry_pb2.RemoveModelAliasRequest(
        parent=asked.parent, model=_name(asked), alias=asked.fields.text("alias", required=True)
    )
    await asked.call("RegistryService/RemoveModelAlias", request, Model)
    return empty()


async def version_by_alias(asked: Asked) -> Json:
    """The version that an alias names."""
    request = registry_pb2.GetModelVersionRequest(
        parent=asked.parent, model=_name(asked), alias=asked.fields.text("alias", required=True)
    )
    return {"model_version": version(await asked.call("RegistryService/GetModelVersion", request, Version))}


async def create_version(asked: Asked) -> Json:
    """The next version of a model, ready at once."""
    request = registry_pb2.CreateModelVersionRequest(
        parent=asked.parent,
        model=_name(asked),
        source=asked.fields.text("source", required=True),
        run_id=asked.fields.optional_text("run_id"),
        model_id=asked.fields.optional_text("model_id"),
        run_link=asked.fields.text("run_link"),
        description=asked.fields.text("description"),
        tags=dict(asked.fields.pairs("tags")),
    )
    return {
        "model_version": version(await asked.call("RegistryService/CreateModelVersion", request, Version))
    }


async def get_version(asked: Asked) -> Json:
    """A version by its number."""
    return {"model_version": version(await _version(asked))}


async def download_uri(asked: Asked) -> Json:
    """Where the files of a version are."""
    return {"artifact_uri": (await _version(asked)).location}


async def update_version(asked: Asked) -> Json:
    """Describes a version; without a description it has none."""
    changed = await _change_version(asked, description=asked.fields.text("description"))
    return {"model_version": version(changed)}


async def transition_stage(asked: Asked) -> Json:
    """Moves a version to a stage."""
    changed = await _change_version(
        asked,
        stage=asked.fields.text("stage", required=True),
        archive_existing_versions=asked.fields.flag("archive_existing_versions"),
    )
    return {"model_version": version(changed)}


async def delete_version(asked: Asked) -> Json:
    """Takes a version out of sight."""
    request = registry_pb2.DeleteModelVersionRequest(
        parent=asked.parent, model=_name(asked), version=_number(asked)
    )
    await asked.call("RegistryService/DeleteModelVersion", request, Version)
    return empty()


async def search_versions(asked: Asked) -> Json:
    """Versions that a filter holds for."""
    request = registry_pb2.SearchModelVersionsRequest(
        parent=asked.parent,
        filter=asked.fields.text("filter"),
        order_by=asked.fields.text_items("order_by"),
        page_size=min(_page_size(asked, _MOST_VERSIONS), _IN_ONE_PAGE),
        page_token=asked.fields.text("page_token"),
    )
    found = await asked.call(
        "RegistryService/SearchModelVersions", request, registry_pb2.SearchModelVersionsResponse
    )
    return _page("model_versions", [version(one) for one in found.versions], found.next_page_token)


async def set_version_tag(asked: Asked) -> Json:
    """Sets a tag of a version."""
    await _change_version(asked, set_tags={_key(asked): asked.fields.text("value")})
    return empty()


async def delete_version_tag(asked: Asked) -> Json:
    """Takes a tag from a version; one that it has not is no error."""
    await _change_version(asked, remove_tags=[_key(asked)])
    return empty()


def model(value: Model) -> dict[str, Any]:
    """A registered model as MLflow's clients read it."""
    made: dict[str, Any] = {
        "name": value.display_name,
        "creation_timestamp": millis(value.create_time),
        "last_updated_timestamp": millis(value.update_time),
    }
    if value.description:
        made["description"] = value.description
    made |= _list("latest_versions", [version(one) for one in value.latest_versions])
    aliases = [{"alias": alias, "version": str(number)} for alias, number in sorted(value.aliases.items())]
    return made | _list("tags", tags(value.tags)) | _list("aliases", aliases)


def version(value: Version) -> dict[str, Any]:
    """A version as MLflow's clients read it."""
    return {
        "name": value.model,
        "version": str(value.version),
        "creation_timestamp": millis(value.create_time),
        "last_updated_timestamp": millis(value.update_time),
        "description": value.description,
        "current_stage": value.stage,
        "source": value.source,
        "run_id": value.run_id,
        "status": "READY",
        "run_link": value.run_link,
        **_list("tags", tags(value.tags)),
        **_list("aliases", list(value.aliases)),
    }


def tags(values: Mapping[str, str]) -> list[dict[str, str]]:
    """Pairs by key, in the form that MLflow has for tags and params."""
    return [{"key": key, "value": values[key]} for key in sorted(values)]


def millis(time: timestamp_pb2.Timestamp) -> int:
    """Milliseconds since 1970."""
    return time.ToMilliseconds()


async def _model(asked: Asked) -> Model:
    request = registry_pb2.GetRegisteredModelRequest(parent=asked.parent, model=_name(asked))
    return await asked.call("RegistryService/GetRegisteredModel", request, Model)


async def _version(asked: Asked) -> Version:
    request = registry_pb2.GetModelVersionRequest(
        parent=asked.parent, model=_name(asked), version=_number(asked)
    )
    return await asked.call("RegistryService/GetModelVersion", request, Version)


async def _change(asked: Asked, **fields: Any) -> Model:
    request = registry_pb2.UpdateRegisteredModelRequest(parent=asked.parent, model=_name(asked), **fields)
    return await asked.call("RegistryService/UpdateRegisteredModel", request, Model)


async def _change_version(asked: Asked, **fields: Any) -> Version:
    request = registry_pb2.UpdateModelVersionRequest(
        parent=asked.parent, model=_name(asked), version=_number(asked), **fields
    )
    return await asked.call("RegistryService/UpdateModelVersion", request, Version)


def _name(asked: Asked) -> str:
    return asked.fields.text("name", required=True)


def _key(asked: Asked) -> str:
    return asked.fields.text("key", required=True)


def _number(asked: Asked) -> int:
    text = asked.fields.text("version", required=True)
    try:
        return int(text) if len(text) < 12 and text.isascii() else _not_a_number(text)
    except ValueError:
        return _not_a_number(text)


def _not_a_number(text: str) -> int:
    raise invalid(f"Parameter 'version' must be an integer, got '{text[:80]}'.")


def _stage(text: str) -> str:
    for known in _STAGES:
        if known.lower() == text.lower():
            return known
    raise invalid(f"Invalid Model Version stage: {text[:80]}. Value must be one of {', '.join(_STAGES)}.")


def _page_size(asked: Asked, most: int) -> int:
    size = asked.fields.whole("max_results")
    if size is None:
        return _USUAL
    if not 0 < size <= most:
        raise wrong_type("max_results", asked.fields.values["max_results"])
    return size


def _list(name: str, items: list[Any]) -> dict[str, Any]:
    """MLflow's answers leave out what is empty."""
    return {name: items} if items else {}


def _page(name: str, items: list[Any], token: str) -> dict[str, Any]:
    return _list(name, items) | ({"next_page_token": token} if token else {})


ROUTES: Final[tuple[Route, ...]] = (
    of_runs("POST", "registered-models/create", Role.MEMBER, create_model, run_token=True),
    of_runs("GET", "registered-models/get", Role.VIEWER, get_model, run_token=True),
    of_runs("POST", "registered-models/rename", Role.MEMBER, rename_model),
    of_runs("PATCH", "registered-models/update", Role.MEMBER, update_model),
    of_runs("DELETE", "registered-models/delete", Role.MEMBER, delete_model),
    of_runs("GET", "registered-models/search", Role.VIEWER, search_models),
    of_runs("GET", "registered-models/get-latest-versions", Role.VIEWER, latest_versions, run_token=True),
    of_runs("POST", "registered-models/get-latest-versions", Role.VIEWER, latest_versions, run_token=True),
    of_runs("POST", "registered-models/set-tag", Role.MEMBER, set_model_tag),
    of_runs("DELETE", "registered-models/delete-tag", Role.MEMBER, delete_model_tag),
    of_runs("POST", "registered-models/alias", Role.MEMBER, set_alias),
    of_runs("DELETE", "registered-models/alias", Role.MEMBER, delete_alias),
    of_runs("GET", "registered-models/alias", Role.VIEWER, version_by_alias, run_token=True),
    of_runs("POST", "model-versions/create", Role.MEMBER, create_version, run_token=True),
    of_runs("GET", "model-versions/get", Role.VIEWER, get_version, run_token=True),
    of_runs("PATCH", "model-versions/update", Role.MEMBER, update_version),
    of_runs("POST", "model-versions/transition-stage", Role.MEMBER, transition_stage),
    of_runs("DELETE", "model-versions/delete", Role.MEMBER, delete_version),
    of_runs("GET", "model-versions/search", Role.VIEWER, search_versions),
    of_runs("GET", "model-versions/get-download-uri", Role.VIEWER, download_uri, run_token=True),
    of_runs("POST", "model-versions/set-tag", Role.MEMBER, set_version_tag),
    of_runs("DELETE", "model-versions/delete-tag", Role.MEMBER, delete_version_tag),
)

"""New versions of registered models: from where, and which files they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from cairn_common.clock import Clock
from cairn_common.db import Database
from cairn_common.errors import InvalidArgument, Reason
from cairn_tracker import manifest, model_sources
from cairn_tracker.artifacts import Artifacts, Draft, add_version
from cairn_tracker.batch import RunKey
from cairn_tracker.keeping import MODEL
from cairn_tracker.manifest import Entry
from cairn_tracker.model_sources import OfFiles, OfLoggedModel, OfRegistered, OfRun
from cairn_tracker.registry import Registry, known_model, note_model
from cairn_tracker.registry_search import PROMPT
from cairn_tracker.store import artifacts as rows
from cairn_tracker.store import logged_models, mlflow_files, mlflow_runs, runs
from cairn_tracker.store import registry as store
from cairn_tracker.store.logged_models import LoggedModel
from cairn_tracker.store.registry import ModelVersion

_MOST_FILES: Final = 10_000


@dataclass(frozen=True, slots=True)
class Registration:
    """A version that is to be made; its fields were checked one by one."""

    team: str
    model: str
    source: str
    # None: not given, which is not the same as empty where the source is another version.
    run_id: str | None
    model_id: str | None
    run_link: str
    description: str
    tags: Mapping[str, str]
    creator: str
    # What this run made can be registered, and nothing else; empty: whatever the team has.
    only_run: str = ""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the files of a version are, and what is known of who made them."""

    source: str
    location: str
    run_id: str = ""
    model_id: str = ""
    # The run that logged its files.
    made_by: str = ""
    # Below which its files lie now; empty: it has none, or they are known.
    folder: str = ""
    entries: Sequence[Entry] = ()
    # Names and uids of versions.
    sources: Mapping[str, str] | None = None


class Registrations:
    """Makes versions, for callers whose rights in the team were checked."""

    def __init__(self, *, db: Database, artifacts: Artifacts, registry: Registry, clock: Clock) -> None:
        self._db = db
        self._artifacts = artifacts
        self._registry = registry
        self._clock = clock

    async def create(self, asked: Registration) -> ModelVersion:
        """A model's next version. Raises NotFound (MODEL_NOT_FOUND), InvalidArgument (SOURCE_INVALID)."""
        origin = await self._origin(asked)
        if asked.only_run and origin.made_by != asked.only_run:
            raise model_sources.foreign(asked.source, "run_id")
        origin = await self._with_files(asked, origin)

        async def write(conn: Any) -> int:
            model = await known_model(conn, asked.team, asked.model)
            known = await runs.line_count(conn, asked.team, origin.run_id) if origin.run_id else None
            sources = origin.sources or {}
            draft = Draft(
                team=asked.team,
                artifact=model.artifact,
                kind=MODEL,
                creator=asked.creator,
                run_uid=origin.run_id if known is not None else "",
                step=None,
                metadata={},
                entries=origin.entries,
                aliases=(),
                sources=list(sources),
                request_id="",
            )
            made = await add_version(conn, draft, sizes, list(sources.values()), self._clock)
            await store.change_version(conn, _registered(asked, origin, made, model.name))
            await store.touch_model(conn, asked.team, model.artifact, made.create_time)
            await note_model(
                conn, "updated", model, made.create_time, what=f"version {made.number} registered"
            )
            return made.number

        sizes = manifest.parts(origin.entries)
        if sizes:
            number = await self._artifacts.with_parts(asked.team, sizes, write)
        else:
            async with self._db.transaction() as conn:
                number = await write(conn)
        return await self._registry.version(asked.team, asked.model, number)

    async def _with_files(self, asked: Registration, origin: Origin) -> Origin:
        """The files that lie at the origin now: a version never changes, whatever is written there later."""
        if origin.entries or not origin.folder:
            return origin
        found = await mlflow_files.inside(self._db, asked.team, origin.folder, limit=_MOST_FILES + 1)
        if len(found) > _MOST_FILES:
            raise _unusable(asked, f"There are more than {_MOST_FILES:,} files.")
        start = len(origin.folder) + 1
        return replace(origin, entries=[replace(entry, path=entry.path[start:]) for entry in found])

    async def _origin(self, asked: Registration) -> Origin:
        if asked.tags.get(PROMPT) == "true":
            return _of_prompt(asked)
        match model_sources.read(asked.source):
            case OfRegistered() as source:
                return await self._of_registered(asked, source)
            case OfLoggedModel(model_id):
                return await self._of_logged_model(asked, model_id)
            case OfRun(run_id, path):
                if asked.model_id:
                    raise model_sources.foreign(asked.source, "model_id")
                if asked.run_id != run_id:
                    raise model_sources.foreign(asked.source, "run_id")
                folder = await self._run_folder(asked, run_id)
                return Origin(
                    asked.source,
                    asked.source,
                    run_id=run_id,
                    made_by=run_id,
                    folder=f"{folder}/{path}" if folder else "",
                )
            case OfFiles() as source:
                return await self._of_files(asked, source)

    async def _of_registered(self, asked: Registration, source: OfRegistered) -> Origin:
        found = await self._named(asked, source)
        if found.tags.get(PROMPT) == "true":
            raise _unusable(asked, "Prompt versions cannot be used as model version sources.")
        differs = (asked.run_id is not None and asked.run_id != found.run_id) or (
            asked.model_id is not None and asked.model_id != found.model_id
        )
        if differs:
            raise _unusable(
                asked, "The run_id and model_id request parameters must match the referenced model version."
            )
        files = await rows.find(self._db, found.team, found.artifact, found.number)
        return Origin(
            source=f"models:/{found.model}/{found.number}",
            location=location(found),
            run_id=found.run_id,
            model_id=found.model_id,
            made_by=found.run_id,
            entries=files.entries if files else (),
            sources={rows.version_name(found.team, found.artifact, found.number): found.uid},
        )

    async def _named(self, asked: Registration, source: OfRegistered) -> ModelVersion:
        if source.version is not None:
            return await self._registry.version(asked.team, source.name, source.version)
        if not source.stage:
            return await self._registry.version(asked.team, source.name, source.alias or manifest.LATEST)
        model = await self._registry.get(asked.team, source.name)
        for version in model.latest:
            if version.stage.lower() == source.stage.lower():
                return version
        raise _unusable(asked, f"{source.name} has no version of the stage {source.stage!r}.")

    async def _of_logged_model(self, asked: Registration, model_id: str) -> Origin:
        if asked.model_id != model_id:
            raise model_sources.foreign(asked.source, "model_id")
        model = await self._logged_model(asked, model_id)
        root = model_sources.logged_model_files(model.experiment_id, model_id)
        run_id = asked.run_id or model.source_run_id
        return Origin(
            asked.source,
            root,
            run_id=run_id,
            model_id=model_id,
            made_by=model.source_run_id,
            folder=_folder(root),
        )

    async def _of_files(self, asked: Registration, source: OfFiles) -> Origin:
        place = f"{model_sources.ARTIFACTS}:/{'/'.join(source.path)}"
        if asked.model_id:
            model = await self._logged_model(asked, asked.model_id)
            if not model_sources.is_within(
                source, model_sources.logged_model_files(model.experiment_id, model.model_id)
            ):
                raise model_sources.foreign(asked.source, "model_id")
            run_id = asked.run_id or model.source_run_id
            return Origin(
                asked.source,
                place,
                run_id=run_id,
                model_id=model.model_id,
                made_by=model.source_run_id,
                folder=_folder(place),
            )
        run_id = asked.run_id or ""
        root = await self._run_folder(asked, run_id) if run_id else ""
        if not root or source.path[: root.count("/") + 1] != tuple(root.split("/")):
            raise model_sources.foreign(asked.source, "run_id")
        return Origin(asked.source, place, run_id=run_id, made_by=run_id, folder=_folder(place))

    async def _run_folder(self, asked: Registration, run_id: str) -> str:
        """Below which the files of a run lie; empty for a run that is not there: a source may name one."""
        run = await mlflow_runs.get(self._db, RunKey(asked.team, run_id))
        return _folder(model_sources.run_files(str(run.experiment), run_id)) if run else ""

    async def _logged_model(self, asked: Registration, model_id: str) -> LoggedModel:
        found = await logged_models.get(self._db, asked.team, model_id)
        if found is None:
            raise model_sources.foreign(asked.source, "model_id")
        return found


def location(version: ModelVersion) -> str:
    """Where the files of a version are to be read: its own, if it has any."""
    if version.has_files:
        return model_sources.version_files(version.artifact, version.number)
    return version.location or version.source or model_sources.version_files(version.artifact, version.number)


def _registered(asked: Registration, origin: Origin, made: rows.Version, model: str) -> ModelVersion:
    return ModelVersion(
        team=asked.team,
        artifact=made.artifact,
        model=model,
        number=made.number,
        uid=made.uid,
        create_time=made.create_time,
        update_time=made.create_time,
        creator=asked.creator,
        run_uid=made.run_uid,
        description=asked.description,
        source=origin.source,
        location=origin.location,
        run_id=origin.run_id,
        run_link=asked.run_link,
        model_id=origin.model_id,
        stage="None",
        tags=asked.tags,
    )


def _folder(location: str) -> str:
    return location.removeprefix(f"{model_sources.ARTIFACTS}:/")


def _of_prompt(asked: Registration) -> Origin:
    if asked.source not in model_sources.PROMPT_SOURCES:
        raise InvalidArgument(
            f"Invalid prompt source: '{asked.source[:200]}'. Prompt sources must use an MLflow placeholder.",
            reason=Reason.SOURCE_INVALID,
            field="source",
        )
    return Origin(asked.source, asked.source, run_id=asked.run_id or "", made_by=asked.run_id or "")


def _unusable(asked: Registration, why: str) -> InvalidArgument:
    return InvalidArgument(
        f"Invalid model version source: '{asked.source[:200]}'. {why}",
        reason=Reason.SOURCE_INVALID,
        field="source",
    )

"""The part of `cairn.Client` that is about artifacts: versions, aliases, what is kept, files up and down."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cairn._download import download
from cairn._http import Json, Query
from cairn._ids import new_uid
from cairn._publish import Version, kind_name, publish
from cairn._team_calls import TeamCalls, bare
from cairn._transfer import Progress, entries_of, sources


class ArtifactCalls(TeamCalls):
    """Calls of one bearer in one team; see `cairn.Client`."""

    def artifacts(self, *, kind: str = "") -> Iterator[Json]:
        """Artifacts, of one kind or all: file, checkpoint, model, dataset, evaluation."""
        query: Query | None = {"kind": kind_name(kind)} if kind else None
        return self.api.pages(self._team("artifacts"), "artifacts", query)

    def models(self) -> Iterator[Json]:
        """Artifacts that are models."""
        return self.artifacts(kind="model")

    def versions(self, artifact: str, *, limit: int | None = None) -> Iterator[Json]:
        """Versions of an artifact, newest first."""
        return self.api.pages(self._team("artifacts", artifact, "versions"), "versions", limit=limit)

    def version(self, artifact: str, ref: str | int = "latest", *, used_by: str = "") -> Json:
        """One version with its files; ``ref`` is a number, ``v3`` or an alias."""
        return self.api.get(self._version(artifact, ref), {"used_by": used_by or None})

    def lineage(self, artifact: str, ref: str | int = "latest") -> Json:
        """What a version comes from, and who used it."""
        return self.api.get(self._version(artifact, ref) + "/lineage")

    def set_alias(self, artifact: str, ref: str | int, alias: str) -> Json:
        """Moves an alias to a version."""
        return self.api.post(self._version(artifact, ref) + ":alias", {"alias": alias})

    def remove_alias(self, artifact: str, ref: str | int, alias: str) -> Json:
        """Takes an alias from the version that it names."""
        return self.api.post(self._version(artifact, ref) + ":unalias", {"alias": alias})

    def alias_moves(self, artifact: str, *, limit: int | None = None) -> Iterator[Json]:
        """What each alias of an artifact named, newest first; version 0: it was removed."""
        return self.api.pages(self._team("artifacts", artifact, "moves"), "moves", limit=limit)

    def delete_version(self, artifact: str, ref: str | int) -> Json:
        """Takes a version out of sight. `ApiError` VERSION_HELD says who holds it."""
        return self.api.post(self._version(artifact, ref) + ":delete")

    def pin_version(self, artifact: str, ref: str | int, *, pinned: bool = True) -> Json:
        """Keeps a version from deletion and retention, or lets it go again."""
        return self.api.post(self._version(artifact, ref) + (":pin" if pinned else ":unpin"))

    def keeping(self) -> Json:
        """How the team keeps its artifacts, points and lines."""
        return self.api.get(self._team("keeping"))

    def set_keeping(
        self,
        *,
        protected_aliases: Sequence[str] | None = None,
        retention: Sequence[Json] | None = None,
        records: Sequence[Json] | None = None,
        etag: str = "",
    ) -> Json:
        """Replaces what is given of how the team keeps artifacts, points and lines; for admins. With
        ``etag`` only where it is as it was read: else `ApiError` ETAG_MISMATCH."""
        body: Json = {"etag": etag} if etag else {}
        if protected_aliases is not None:
            body["protected_aliases"] = list(protected_aliases)
        if retention is not None:
            body["retention"] = list(retention)
        if records is not None:
            body["records"] = list(records)
        return self.api.patch(self._team("keeping"), body)

    def preview_retention(self, retention: Sequence[Json] = (), *, limit: int | None = None) -> list[Json]:
        """Versions that would go by these rules, or by the team's own: ``version``, and who keeps it
        nevertheless, ``held_by``."""
        return self._preview(":preview", "outlived", {"retention": list(retention)}, limit)

    def preview_expiry(self, records: Sequence[Json] = (), *, limit: int | None = None) -> list[Json]:
        """Runs of which something would be dropped by these rules, or by the team's own: about so many
        ``points``, and ``lines``."""
        return self._preview(":expiry", "expiring", {"records": list(records)}, limit)

    def _preview(self, verb: str, what: str, body: Json, limit: int | None) -> list[Json]:
        found: list[Json] = []
        while True:
            page = self.api.post(self._team("keeping") + verb, body)
            found += page.get(what, [])
            body["page_token"] = page.get("next_page_token", "")
            if not body["page_token"] or (limit is not None and len(found) >= limit):
                return found[:limit]

    def storage_usage(self, by: str = "kind") -> Json:
        """Bytes of the team's versions, by kind, experiment or user; see ``StorageUsage`` of the API."""
        return self.api.get(self._team("storage"), {"group_by": by})

    def verify_version(
        self, artifact: str, ref: str | int = "latest", *, progress: Progress | None = None
    ) -> list[Json]:
        """Lets the store's bytes of a version be read again; its rotten files: path, digests, missing."""
        found: dict[str, Json] = {}
        done, token = 0, ""
        while True:
            page = self.api.post(self._version(artifact, ref) + ":verify", {"page_token": token})
            found |= {str(file["path"]): file for file in page.get("rotten", [])}
            done += int(page.get("size") or 0)
            if progress is not None:
                progress(done, max(done, int(page.get("version", {}).get("size") or 0)))
            token, ref = page.get("next_page_token", ""), str(page.get("version", {}).get("version") or ref)
            if not token:
                return list(found.values())

    def collect_garbage(self, *, validate_only: bool = False) -> Json:
        """Deletes some bytes that nobody keeps, or says what would be deleted; for admins. ``due_blobs`` of
        the answer are left: call again."""
        return self.api.post(self._team("storage") + ":collect", {"validate_only": validate_only})

    def checkpoints(self, run: str) -> list[Json]:
        """Checkpoints that a run committed, newest first."""
        return list(self.api.pages(self._team("runs", run, "checkpoints"), "versions"))

    def publish(
        self,
        path: str | Path,
        name: str,
        *,
        kind: str = "file",
        run: str = "",
        metadata: Mapping[str, Any] | None = None,
        aliases: Sequence[str] = (),
        source_versions: Sequence[str] = (),
        progress: Progress | None = None,
    ) -> Json:
        """Saves a file or folder as the next version of an artifact."""
        version = Version(
            artifact=name,
            kind=kind,
            run_uid=bare(run),
            metadata=dict(metadata or {}),
            aliases=tuple(aliases),
            sources=tuple(source_versions),
            request_id=new_uid(),
        )
        return publish(self.api, self.team, sources(Path(path)), version, progress=progress)

    def commit_version(self, artifact: str, body: Json) -> Json:
        """Commits a version of parts that the store has, such as another version's entries."""
        return self.api.post(self._team("artifacts", artifact, "versions"), {"request_id": new_uid(), **body})

    def download(
        self, artifact: str, ref: str | int, folder: str | Path, *, progress: Progress | None = None
    ) -> Json:
        """Puts a version's files into ``folder``, each verified; returns the version."""
        version = self.version(artifact, ref)
        download(self.api, self.team, entries_of(self.api, version), Path(folder), progress=progress)
        return version

    def _version(self, artifact: str, ref: str | int) -> str:
        text = str(ref)
        number = text[1:] if text[:1] == "v" and text[1:].isdigit() else text
        return self._team("artifacts", artifact, "versions", number)

"""One version of an artifact: upload what the store lacks, then commit the manifest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from cairn._blobs import Store
from cairn._http import Api, ApiError, Json, Pauses, segment
from cairn._transfer import Entry, Part, Progress, Source, ask_uploads
from cairn._upload import upload

KINDS = ("file", "checkpoint", "model", "dataset", "evaluation")
COMMIT_PATIENCE = 60.0
# Bytes of entries in a commit itself, and in a blob of a manifest.
LARGEST_COMMIT = 2_000_000
LARGEST_MANIFEST = 12 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """What to say about a version besides its files. ``request_id`` makes the commit safe to repeat."""

    artifact: str
    request_id: str
    kind: str = "file"
    run_uid: str = ""
    step: int | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    aliases: Sequence[str] = ()
    sources: Sequence[str] = ()
    # Of a checkpoint that several ranks write: (rank, ranks, attempt, round).
    shard: tuple[int, int, int, int] | None = None


def kind_name(kind: str) -> str:
    """As the API names it. Raises `ValueError`."""
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, is {kind!r}")
    return f"ARTIFACT_KIND_{kind.upper()}"


def publish(
    api: Api, team: str, files: Sequence[Source], version: Version, *, progress: Progress | None = None
) -> Json:
    """The committed version. Raises `TransferError`, `UnsafePath`, `Unreachable`, `ApiError`."""
    store = Store()
    path = f"/api/v1/teams/{segment(team)}/artifacts/{segment(version.artifact)}/versions"
    body = _body(team, version)
    pauses = Pauses(COMMIT_PATIENCE)
    entries = upload(api, team, files, progress=progress, store=store)
    while True:
        body |= _manifest(api, team, entries, store)
        try:
            return api.post(path, body, patience=COMMIT_PATIENCE)
        except ApiError as error:
            # The record of a run that has just begun may still be on its way to the server; a part that was
            # there when we asked may have gone since.
            if error.reason not in ("RUN_NOT_FOUND", "PARTS_MISSING") or not pauses.pause():
                raise
            if error.reason == "PARTS_MISSING":
                entries = upload(api, team, files, store=store)


def _manifest(api: Api, team: str, entries: Sequence[Entry], store: Store) -> Json:
    """The entries as a commit takes them: of many files they are uploaded, in blobs of whole lines."""
    lines = [json.dumps(entry.json()).encode() for entry in entries]
    if sum(map(len, lines)) <= LARGEST_COMMIT:
        return {"entries": [entry.json() for entry in entries]}
    blobs: dict[str, bytes] = {}
    while lines:
        size = count = 0
        while count < len(lines) and (not count or size + len(lines[count]) < LARGEST_MANIFEST):
            size, count = size + len(lines[count]) + 1, count + 1
        data = b"\n".join(lines[:count])
        blobs[hashlib.sha256(data).hexdigest()], lines = data, lines[count:]
    urls = ask_uploads(api, team, [Part(digest, len(data)) for digest, data in blobs.items()])
    for digest, url in urls.items():
        store.put(url, blobs[digest])
    return {"manifest": list(blobs)}


def _body(team: str, version: Version) -> Json:
    body: Json = {
        "kind": kind_name(version.kind),
        "metadata": version.metadata,
        "aliases": list(version.aliases),
        "sources": list(version.sources),
        "request_id": version.request_id,
    }
    if version.run_uid:
        body["run"] = f"teams/{team}/runs/{version.run_uid}"
    if version.step is not None:
        body["step"] = version.step
    if version.shard is not None:
        body["shard"] = dict(zip(("rank", "ranks", "attempt", "round"), version.shard, strict=True))
    return body

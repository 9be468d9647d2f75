"""Uploads and commits, as a test makes them."""

from __future__ import annotations

import hashlib

import httpx
from grpc import aio

from cairn.tracker.v1 import artifact_pb2, tracker_pb2
from tests.harness.tracker import Client

TEAM = "teams/main"


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def entry(path: str, *parts: bytes) -> artifact_pb2.ArtifactEntry:
    whole = b"".join(parts)
    return artifact_pb2.ArtifactEntry(
        path=path,
        size=len(whole),
        digest=digest(whole),
        parts=[artifact_pb2.ArtifactPart(digest=digest(part), size=len(part)) for part in parts],
    )


async def upload(client: Client, *parts: bytes) -> int:
    """Uploads what the store lacks; how many that were."""
    request = tracker_pb2.CreateUploadsRequest(
        parent=TEAM, parts=[artifact_pb2.ArtifactPart(digest=digest(part), size=len(part)) for part in parts]
    )
    answer = await client.artifacts.CreateUploads(request)
    by_digest = {digest(part): part for part in parts}
    async with httpx.AsyncClient(trust_env=False) as http:
        for item in answer.uploads:
            (await http.put(item.url, content=by_digest[item.digest])).raise_for_status()
    return len(answer.uploads)


def commit(
    artifact: str, *entries: artifact_pb2.ArtifactEntry, **fields: object
) -> tracker_pb2.CommitVersionRequest:
    made = tracker_pb2.CommitVersionRequest(parent=TEAM, artifact_id=artifact, entries=entries)
    made.MergeFrom(tracker_pb2.CommitVersionRequest(**fields))  # type: ignore[arg-type]
    return made


async def refused(call: aio.UnaryUnaryCall[object, object]) -> str:
    return (await call.code()).name

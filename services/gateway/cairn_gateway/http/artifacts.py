"""Routes of the tracker's artifacts: uploads, versions, checkpoints, downloads, lineage."""

from __future__ import annotations

from cairn.tracker.v1 import artifact_pb2
from cairn_gateway.http.route import Route

TEAM = "teams/{team}"
RUN = "teams/{team}/runs/{run}"
ANY_RUN = "teams/{team}/runs/{}"
ARTIFACT = "teams/{team}/artifacts/{artifact}"
VERSION = "teams/{team}/artifacts/{artifact}/versions/{version}"

ROUTES = (
    Route(
        method="POST",
        path="/teams/{team}/uploads",
        rpc="ArtifactService/CreateUploads",
        summary="For each part that the store lacks, a URL to PUT its bytes to.",
        bind={"parent": TEAM},
    ),
    Route(
        method="POST",
        path="/teams/{team}/downloads",
        rpc="ArtifactService/CreateDownloads",
        summary="URLs to GET parts from, good for at most 15 minutes.",
        bind={"parent": TEAM},
    ),
    Route(
        method="GET",
        path="/teams/{team}/artifacts",
        rpc="ArtifactService/ListArtifacts",
        summary="Artifacts of a team.",
        bind={"parent": TEAM},
    ),
    Route(
        method="GET",
        path="/teams/{team}/artifacts/{artifact}/versions",
        rpc="ArtifactService/ListVersions",
        summary="Versions, newest first. The artifact `-` with `run` gives all that a run made.",
        bind={"parent": ARTIFACT},
        refs={"run": ANY_RUN},
    ),
    Route(
        method="POST",
        path="/teams/{team}/artifacts/{artifact}/versions",
        rpc="ArtifactService/CommitVersion",
        summary="Make uploaded files visible as the next version, all or nothing.",
        bind={"parent": TEAM, "artifact_id": "{artifact}"},
        refs={"run": ANY_RUN},
    ),
    Route(
        method="GET",
        path="/teams/{team}/artifacts/{artifact}/versions/{version}",
        rpc="ArtifactService/GetVersion",
        summary="A version with its files, by number or alias; `used_by` records it as a run's input.",
        bind={"name": VERSION},
        refs={"used_by": ANY_RUN, "as_read_by": ANY_RUN},
    ),
    Route(
        method="GET",
        path="/teams/{team}/artifacts/{artifact}/versions/{version}/entries",
        rpc="ArtifactService/ListEntries",
        summary="Files of a version, by path; a version with more than 10,000 leaves them out itself.",
        bind={"version": VERSION},
    ),
    Route(
        method="POST",
        path="/teams/{team}/artifacts/{artifact}/versions/{version}:alias",
        rpc="ArtifactService/SetAlias",
        summary="Move an alias to this version.",
        bind={"name": VERSION},
    ),
    Route(
        method="GET",
        path="/teams/{team}/artifacts/{artifact}/versions/{version}/lineage",
        rpc="ArtifactService/GetLineage",
        summary="What a version comes from, and who used it.",
        bind={"name": VERSION},
    ),
    Route(
        method="GET",
        path="/teams/{team}/runs/{run}/checkpoints/latest",
        rpc="ArtifactService/GetLatestCheckpoint",
        summary="The run's last committed checkpoint.",
        bind={"parent": RUN},
    ),
    Route(
        method="GET",
        path="/teams/{team}/runs/{run}/checkpoints",
        rpc="ArtifactService/ListVersions",
        summary="Checkpoints that the run made, newest first.",
        bind={"parent": "teams/{team}/artifacts/-", "run": RUN},
        fixed={"kind": artifact_pb2.ARTIFACT_KIND_CHECKPOINT},
        operation="ListCheckpoints",
    ),
)

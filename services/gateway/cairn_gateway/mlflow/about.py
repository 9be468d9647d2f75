"""What the server says of itself; open to all, as nothing in it is anybody's."""

from __future__ import annotations

from typing import Final

from starlette.responses import PlainTextResponse, Response

from cairn_gateway import wire

#: The release of MLflow whose API this follows.
VERSION: Final = "3.17.2"
_CAPABILITIES: Final[wire.Json] = {
    "store_type": "SqlStore",
    # A workspace is a team.
    "workspaces_enabled": True,
    "trace_archival_enabled": False,
    # Bytes go between clients and the store alone. Those who send or fetch them here are served, too.
    "multipart_uploads_enabled": True,
    "multipart_downloads_enabled": True,
    "artifacts_presigned_only": True,
    "presigned_upload_run_id_supported": False,
    "presigned_upload_model_id_supported": False,
    "features_enabled": {"gateway": False},
}


async def version() -> Response:
    """A release's number, which clients compare with their own."""
    return PlainTextResponse(VERSION)


async def health() -> Response:
    """This process serves."""
    return PlainTextResponse("OK")


async def server_info() -> Response:
    """What clients may make use of; they remember it for a minute."""
    return Response(wire.dumps(_CAPABILITIES), media_type="application/json")


OPEN: Final = {
    "/version": version,
    "/health": health,
    "/api/3.0/mlflow/server-info": server_info,
}

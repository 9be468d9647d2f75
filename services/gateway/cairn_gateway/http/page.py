"""The page: a closed set of files that anybody may read; what they show needs a token."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response

from cairn_gateway.http import tags
from cairn_gateway.problems import HttpError

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}


class Page:
    """The files of ``web/``, read once; no name that a request brings becomes a path."""

    def __init__(self) -> None:
        folder = files("cairn_gateway").joinpath("web")
        self._files: Mapping[str, tuple[bytes, str, str]] = {
            file.name: _load(file.read_bytes(), file.name)
            for file in folder.iterdir()
            if "." + file.name.rpartition(".")[2] in _TYPES
        }

    async def index(self, request: Request) -> Response:
        """The page itself."""
        return self._answer(request, "index.html")

    async def file(self, request: Request) -> Response:
        """A module, a style sheet or an image of it."""
        return self._answer(request, request.path_params["file"])

    def _answer(self, request: Request, name: str) -> Response:
        if name not in self._files:
            raise HttpError(404, "ROUTE_UNKNOWN", "there is no such file")
        content, kind, etag = self._files[name]
        headers = {"ETag": etag, "Cache-Control": "no-cache"}
        if (has := tags.known(request, etag)) is not None:
            return Response(status_code=304, headers=headers | {"ETag": has})
        return Response(content, headers=headers, media_type=kind)


def _load(content: bytes, name: str) -> tuple[bytes, str, str]:
    digest = hashlib.sha256(content).hexdigest()[:32]
    return content, _TYPES["." + name.rpartition(".")[2]], f'"{digest}"'

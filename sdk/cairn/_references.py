"""What stays where it is: an address and the digest of what lies there. The server never fetches it."""

from __future__ import annotations

import hashlib
import ipaddress
import json
import os
import re
import socket
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

REFERENCES = "references.json"
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://\S+")
_DIGEST = re.compile(r"[a-z0-9][a-z0-9-]{0,31}:[\x21-\x7e]{1,200}")
_SIGNED = re.compile(r"(?i)[?&](x-amz-signature|signature|sig|x-goog-signature|token|access_token)=")
_CHUNK = 1 << 20
_SECONDS = 60.0


def is_reference(value: object) -> bool:
    """Whether this is the address of something, not a path."""
    return isinstance(value, str) and bool(_ADDRESS.fullmatch(value))


def describe(uri: str, digest: str = "") -> dict[str, Any]:
    """Address, digest and, where it was read, size in bytes. Raises ValueError or OSError.

    An address that opens by itself (a password, a signature) would be a secret in a record: it is refused.
    """
    parts = urlsplit(uri)
    if parts.username or parts.password or _SIGNED.search(uri):
        raise ValueError(
            f"{parts.scheme}://{parts.hostname}...: it holds a password or a signature; give the address "
            "without it, and digest='sha256:...'"
        )
    if digest:
        if not _DIGEST.fullmatch(digest):
            raise ValueError(f"digest: {digest[:80]!r} is not such as 'sha256:9f86...'")
        return {"uri": uri, "digest": digest}
    found, size = _hash(uri)
    return {"uri": uri, "digest": f"sha256:{found}", "size": size}


def write(references: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """As the one file of a version: equal references are equal bytes."""
    rows = sorted((dict(each) for each in references), key=lambda each: str(each["uri"]))
    path.write_text(json.dumps({"references": rows}, indent=1, sort_keys=True) + "\n")
    return path


def _hash(uri: str) -> tuple[str, int]:
    digest, size = hashlib.sha256(), 0
    with _open(uri) as file:
        while data := file.read(_CHUNK):
            digest.update(data)
            size += len(data)
    return digest.hexdigest(), size


def _open(uri: str) -> IO[bytes]:
    scheme = urlsplit(uri).scheme
    if scheme in ("http", "https"):
        _refuse_inside(uri)
        try:
            opened: IO[bytes] = urllib.request.build_opener(_Redirects()).open(uri, timeout=_SECONDS)
        except urllib.error.URLError as error:
            raise OSError(f"{uri} cannot be read: {error.reason}") from None
        return opened
    try:
        import fsspec  # type: ignore[import-untyped]
    except ImportError:
        raise ValueError(
            f"{uri}: nothing here reads {scheme}://; give digest='sha256:...', or install fsspec with what "
            "reads it (s3fs, gcsfs)"
        ) from None
    try:
        file: IO[bytes] = fsspec.open(uri, "rb").open()
    except (ImportError, ValueError) as error:
        raise ValueError(f"{uri}: {error}; or give digest='sha256:...'") from None
    return file


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows to where one may read."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        _refuse_inside(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _refuse_inside(uri: str) -> None:
    """An address from somebody else's list could lead to what only this machine or its network may ask: a
    cloud's metadata, a server without a password. Raises ValueError where it does, unless that is allowed."""
    if os.environ.get("CAIRN_PRIVATE_REFERENCES") == "1":
        return
    host = urlsplit(uri).hostname or ""
    try:
        found = {str(each[4][0]) for each in socket.getaddrinfo(host, None)}
    except (OSError, UnicodeError):
        return  # a proxy may know it; if nobody does, opening says so
    inside = [text for text in found if not ipaddress.ip_address(text.partition("%")[0]).is_global]
    if inside:
        raise ValueError(
            f"{uri}: {host} is a private address ({min(inside)}); give digest='sha256:...', or set "
            "CAIRN_PRIVATE_REFERENCES=1 if it is meant to be read"
        )

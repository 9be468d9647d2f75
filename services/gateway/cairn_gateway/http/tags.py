"""Entity tags (RFC 9110): whether a client knows an answer already, and whether it changes what it has read.

A tag is `"ETAG.DIGEST"`: the resource's own etag, where it has one, and a digest of the answer. A change asks
by the first part alone: what the answer shows beside the resource may be another by then.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import Response

from cairn_common.errors import InvalidArgument, Reason
from cairn_gateway.problems import HttpError

IF_MATCH, IF_NONE_MATCH = "if-match", "if-none-match"
_TAG = re.compile(r'(W/)?"([\x21\x23-\x7e]*)"')
_LIST = re.compile(r'\s*(?:(?:W/)?"[\x21\x23-\x7e]*"\s*(?:,\s*|$))+')
_CODING = re.compile(r"-(gzip|zstd)$")


def tag(content: bytes, etag: str = "") -> str:
    """The tag of an answer to a resource with this etag."""
    return f'"{etag}.{hashlib.sha256(content).hexdigest()[:20]}"'


def packed(found: str, coding: str) -> str:
    """The tag of the same answer, packed."""
    return f'{found[:-1]}-{coding}"'


def known(request: Request, found: str) -> str | None:
    """The tag under which the client has this answer already; None where it has not."""
    given = _given(request, IF_NONE_MATCH)
    if list(given) == ["*"]:
        return found
    return next((each for each in given if _bare(each) == _bare(found)), None)


def read(request: Request, content: bytes, *, etag: str = "") -> Response:
    """A JSON answer to who reads; 304 where the client has it already.

    Raises HttpError (412) where the client asks for another one alone.
    """
    found = tag(content, etag)
    headers = {"ETag": found, "Cache-Control": "private, no-cache", "Vary": "Authorization, Cookie"}
    wanted = _given(request, IF_MATCH)
    if wanted and not any(each == "*" or _bare(each) == _bare(found) for each in _strong(wanted)):
        raise HttpError(412, "ETAG_MISMATCH", "If-Match: it is another one by now; leave it out to read it")
    if (has := known(request, found)) is not None:
        return Response(status_code=304, headers=headers | {"ETag": has})
    return Response(content, headers=headers, media_type="application/json")


def changed(content: bytes, *, etag: str = "") -> Response:
    """A JSON answer to who changed something."""
    headers = {"ETag": tag(content, etag)} if etag else {}
    return Response(content, headers=headers, media_type="application/json")


def wanted_etag(request: Request) -> str:
    """The etag that the resource has to have for a change to be made; empty: any.

    Raises InvalidArgument for several, HttpError (412) for one that never matches.
    """
    given = _given(request, IF_MATCH)
    if not given or list(given) == ["*"]:
        return ""
    if len(given) > 1:
        raise InvalidArgument("If-Match: give one tag, that of the answer that was read", path="If-Match")
    if not _strong(given):
        raise HttpError(412, "ETAG_MISMATCH", "If-Match: a weak tag never matches; give the ETag as it came")
    bare = _bare(given[0])
    etag = bare.rpartition(".")[0] if "." in bare else bare
    if not etag:
        raise InvalidArgument("If-Match: this is no tag of a resource that has an etag", path="If-Match")
    return etag


def refuse_wanted(request: Request) -> None:
    """For routes that could not hold it: what is asked for is not passed over. Raises InvalidArgument."""
    if IF_MATCH in request.headers:
        raise InvalidArgument("If-Match: nothing that this route changes has an etag", path="If-Match")


def _given(request: Request, header: str) -> Sequence[str]:
    text = ", ".join(request.headers.getlist(header)).strip()
    if text in ("", "*"):
        return [text] if text else []
    if not _LIST.fullmatch(text):
        if header == IF_NONE_MATCH:
            return []  # then the answer is a whole one
        raise InvalidArgument(
            'If-Match: give a tag as it came, "..." in quotes', reason=Reason.FIELD_INVALID, path="If-Match"
        )
    return [match[0] for match in _TAG.finditer(text)]


def _strong(given: Sequence[str]) -> Sequence[str]:
    return [each for each in given if not each.startswith("W/")]


def _bare(given: str) -> str:
    match = _TAG.fullmatch(given)
    return _CODING.sub("", match[2]) if match else given

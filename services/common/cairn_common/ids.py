"""Identifiers: made ones (lower-case ULIDs), chosen ones, and resource names built of both."""

from __future__ import annotations

import os
import re
import threading
import time
from functools import lru_cache

from cairn_common.errors import InvalidArgument, Reason

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
# Ten bits at a time.
_PAIRS = tuple(high + low for high in _ALPHABET for low in _ALPHABET)
UID = "^[0-7][0-9a-hjkmnp-tv-z]{25}$"
CHOSEN = "^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$"
_PART = "[A-Za-z0-9._~-]{1,128}"
NAME = f"^{_PART}$"
"""Forms of made ids, of chosen ones, and of any part of a resource's name, as regular expressions."""
_UID, _CHOSEN = re.compile(UID), re.compile(CHOSEN)
_UID_LENGTH = 26
_RANDOM_BITS = 80
_ASKED = 1000


class _Maker:
    """Makes ULIDs that never go backwards within this process, also inside one millisecond."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = 0
        # The system is asked for much at a time. A child must not go on with what its parent has.
        self._random = b""
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forked)

    def make(self) -> str:
        millis = time.time_ns() // 1_000_000
        with self._lock:
            value = (millis << _RANDOM_BITS) | self._bits(_RANDOM_BITS)
            if value <= self._last:
                # A random step keeps the next one as hard to guess as a fresh one would be.
                value = self._last + 1 + self._bits(64)
            self._last = value
        return "".join([_PAIRS[(value >> shift) & 1023] for shift in range(120, -1, -10)])

    def _bits(self, count: int) -> int:
        size = count // 8
        if len(self._random) < size:
            self._random = os.urandom(_ASKED)
        taken, self._random = self._random[:size], self._random[size:]
        return int.from_bytes(taken)

    def _forked(self) -> None:
        # Whoever held it is not here.
        self._lock = threading.Lock()
        self._random = b""


_maker = _Maker()


def new_uid() -> str:
    """A new id: a ULID in lower case, 26 characters, sorting by the time it was made."""
    return _maker.make()


def is_uid(value: str) -> bool:
    """Whether this has the form of a made id."""
    return len(value) == _UID_LENGTH and _is_uid(value)


# Events bring the same few again and again.
@lru_cache(maxsize=4096)
def _is_uid(value: str) -> bool:
    return _UID.fullmatch(value) is not None


def check_id(value: str, field: str) -> str:
    """The chosen id as it is. Raises `InvalidArgument` (ID_INVALID) with the field's name."""
    if _CHOSEN.fullmatch(value) is None:
        raise InvalidArgument(
            f"{field}: {value[:80]!r} is not an id: 1 to 63 of a-z, 0-9 and -, "
            "beginning with a letter and not ending with -",
            reason=Reason.ID_INVALID,
            field=field,
        )
    return value


def check_uid(value: str, field: str) -> str:
    """The made id as it is. Raises `InvalidArgument` (ID_INVALID) with the field's name."""
    if not is_uid(value):
        raise InvalidArgument(
            f"{field}: {value[:80]!r} is not a uid (26 characters)", reason=Reason.ID_INVALID, field=field
        )
    return value


def parse_name(pattern: str, name: str) -> dict[str, str]:
    """Takes a resource name apart: ``parse_name("teams/{team}/jobs/{job}", name)["job"]``.

    The parts are checked to be one path segment each and nothing more (``-`` passes).
    Raises `InvalidArgument` (NAME_INVALID).
    """
    match = _compiled(pattern).fullmatch(name)
    if match is None:
        raise InvalidArgument(
            f"{name[:200]!r} is not a name of the form {pattern}", reason=Reason.NAME_INVALID, pattern=pattern
        )
    return match.groupdict()


def format_name(pattern: str, **parts: str) -> str:
    """Builds a resource name: ``format_name("teams/{team}/jobs/{job}", team="main", job=uid)``.

    Raises `InvalidArgument` (NAME_INVALID) where a part is not one path segment.
    """
    name = pattern.format(**parts)
    parse_name(pattern, name)
    return name


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> re.Pattern[str]:
    pieces = re.split(r"\{(\w+)\}", pattern)
    made = "".join(
        re.escape(piece) if index % 2 == 0 else f"(?P<{piece}>{_PART})" for index, piece in enumerate(pieces)
    )
    return re.compile(made)

"""What a version may consist of, and what its contents are called. No I/O."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from cairn_common.errors import InvalidArgument, Reason

LONGEST_PATH = 1_024
LARGEST_PART = 16 * 1024**2
# A code archive is one part, whatever its size.
LARGEST_BLOB = 2 * 1024**3
# A file that went to the store in one piece, by an upload in parts of the store's own.
LARGEST_FILE = 20 * 1024**3
_DIGEST = re.compile(r"[0-9a-f]{64}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_ALIAS = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")
_NUMBER = re.compile(r"v?([1-9][0-9]{0,17})")
LATEST = "latest"
MOST_ENTRIES = 200_000


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a file, stored under its digest."""

    digest: str
    size: int


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of a version."""

    path: str
    size: int
    digest: str
    parts: Sequence[Part]


def read(lines: bytes) -> list[Entry]:
    """The entries of a manifest: a line of JSON each, as the API has them. Raises InvalidArgument."""
    found = []
    for number, line in enumerate(lines.splitlines(), start=1):
        try:
            told = json.loads(line)
            parts = [Part(_text(part["digest"]), _count(part["size"])) for part in told.get("parts", [])]
            found.append(
                Entry(_text(told["path"]), _count(told.get("size", 0)), _text(told["digest"]), parts)
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise _invalid(f"manifest: line {number:,} is no entry: {line[:80]!r}") from None
    return found


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    value.encode()  # no lone surrogates
    return value


def _count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
        raise TypeError
    return value


def check(entries: Sequence[Entry], *, largest_part: int = LARGEST_PART) -> None:
    """Raises InvalidArgument where the entries are no set of files, or do not add up."""
    if not entries:
        raise _invalid("entries: a version needs at least one file")
    if len(entries) > MOST_ENTRIES:
        raise _invalid(
            f"entries: {len(entries):,} files are more than {MOST_ENTRIES:,}; pack them into archives"
        )
    sizes: dict[str, int] = {}
    paths: set[str] = set()
    for entry in entries:
        check_path(entry.path)
        if entry.path in paths:
            raise _invalid(f"entries: {entry.path!r} is there twice")
        paths.add(entry.path)
        _check_entry(entry, largest_part)
        for part in entry.parts:
            if sizes.setdefault(part.digest, part.size) != part.size:
                raise _invalid(f"entries: part {part.digest} is declared with two sizes")
    for path in paths:
        inside = [path[:place] for place, letter in enumerate(path) if letter == "/"]
        if any(folder in paths for folder in inside):
            raise _invalid(f"entries: {path!r} lies inside another file")


def check_path(path: str) -> None:
    """Raises InvalidArgument for a path that could name anything outside the folder it is unpacked in."""
    if not path or len(path.encode()) > LONGEST_PATH:
        raise _invalid(f"entries: {path[:80]!r} has not 1 to {LONGEST_PATH:,} bytes", path=path[:80])
    if _CONTROL.search(path) or "\\" in path or any(part in ("", ".", "..") for part in path.split("/")):
        raise _invalid(
            f"entries: {path!r} is not a path inside an artifact: relative, `/` between its parts, no empty, "
            "`.` or `..` part, no backslash or control character",
            path=path,
        )


def check_part(part: Part, *, largest: int) -> None:
    """Raises InvalidArgument for an impossible digest or size (bytes)."""
    check_digest(part.digest)
    if not 0 < part.size <= largest:
        raise _invalid(f"part {part.digest}: {part.size:,} bytes; a part has 1 to {largest:,}")


def check_digest(digest: str) -> None:
    """Raises InvalidArgument for what is no SHA-256 in lower-case hexadecimal."""
    if _DIGEST.fullmatch(digest) is None:
        raise InvalidArgument(
            f"digest: {digest[:80]!r} is not a SHA-256 in lower-case hex", reason=Reason.DIGEST_INVALID
        )


def check_alias(alias: str) -> None:
    """Raises InvalidArgument for what is no alias, or reads as a version's number."""
    if _ALIAS.fullmatch(alias) is None:
        raise InvalidArgument(
            f"alias: {alias[:80]!r} is not an alias: 1 to 63 of a-z, 0-9 and -, beginning with a letter",
            reason=Reason.ALIAS_INVALID,
        )
    if re.fullmatch(r"v[0-9]+", alias):
        raise InvalidArgument(
            f"alias: {alias!r} looks like a version's number; choose another word",
            reason=Reason.ALIAS_INVALID,
        )


def check_moved_alias(alias: str) -> None:
    """As `check_alias`, for one that somebody moves or takes away: `latest` moves by itself."""
    check_alias(alias)
    if alias == LATEST:
        raise InvalidArgument(
            f"alias: {LATEST!r} always is the version committed last", reason=Reason.ALIAS_INVALID
        )


def version_number(text: str) -> int | None:
    """3 for `3` and `v3`; None for an alias."""
    match = _NUMBER.fullmatch(text)
    return int(match[1]) if match else None


def digest(entries: Sequence[Entry]) -> str:
    """The name of the contents: SHA-256 over `<digest> <size> <path>` lines, sorted by path."""
    lines = [f"{entry.digest} {entry.size} {entry.path}\n" for entry in sorted(entries, key=lambda e: e.path)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def parts(entries: Sequence[Entry]) -> dict[str, int]:
    """The sizes of all parts by digest."""
    return {part.digest: part.size for entry in entries for part in entry.parts}


def _check_entry(entry: Entry, largest_part: int) -> None:
    check_digest(entry.digest)
    for part in entry.parts:
        check_part(part, largest=largest_part)
    if sum(part.size for part in entry.parts) != entry.size:
        raise _invalid(f"entries: the parts of {entry.path!r} do not add up to its {entry.size:,} bytes")
    if len(entry.parts) == 1 and entry.parts[0].digest != entry.digest:
        raise _invalid(f"entries: {entry.path!r} has one part, and another digest than it")
    if not entry.parts and entry.digest != hashlib.sha256().hexdigest():
        raise _invalid(f"entries: {entry.path!r} is empty, and its digest is not that of nothing")


def _invalid(message: str, **metadata: str) -> InvalidArgument:
    return InvalidArgument(message, reason=Reason.ARTIFACT_INVALID, **metadata)

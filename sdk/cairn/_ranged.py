"""A file of a version, read where it lies: only the bytes that are asked for come over the network."""

from __future__ import annotations

import io
from bisect import bisect_right
from collections import OrderedDict
from itertools import accumulate

from cairn._blobs import Store, TransferError, UrlExpired
from cairn._http import Api, segment
from cairn._transfer import Entry

BLOCK = 128 * 1024
_KEPT = 64


class RangedFile(io.RawIOBase):
    """Read-only and seekable. What comes in pieces cannot be held against a digest: this is for looking.

    Reading raises `TransferError`, `Unreachable`, `ApiError`.
    """

    def __init__(self, api: Api, team: str, entry: Entry, *, store: Store | None = None) -> None:
        super().__init__()
        self.size = entry.size
        self.read_bytes = 0
        self._api, self._team, self._store = api, team, store or Store()
        self._parts = entry.parts
        self._starts = [0, *accumulate(part.size for part in entry.parts)]
        self._urls: dict[str, str] = {}
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        self._at = 0

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def tell(self) -> int:
        """Where the next read begins."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """As files do."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: object) -> int:
        """Fills a buffer; 0 at the end."""
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        filled = 0
        # All of it: whoever reads a table takes less for the end.
        while filled < len(view) and self._at < self.size:
            number, inside = divmod(self._at, BLOCK)
            data = self._block(number)[inside : inside + len(view) - filled]
            view[filled : filled + len(data)] = data
            filled += len(data)
            self._at += len(data)
        return filled

    def _block(self, number: int) -> bytes:
        if number in self._blocks:
            self._blocks.move_to_end(number)
            return self._blocks[number]
        first = number * BLOCK
        data = self._fetch(first, min(BLOCK, self.size - first))
        self._blocks[number] = data
        if len(self._blocks) > _KEPT:
            self._blocks.popitem(last=False)
        return data

    def _fetch(self, first: int, count: int) -> bytes:
        """Bytes of one part or of neighbours."""
        found = b""
        while len(found) < count:
            at = first + len(found)
            place = bisect_right(self._starts, at) - 1
            part, start = self._parts[place], at - self._starts[place]
            found += self._piece(part.digest, start, min(count - len(found), part.size - start))
        self.read_bytes += len(found)
        return found

    def _piece(self, digest: str, start: int, count: int) -> bytes:
        if digest not in self._urls:
            self._urls[digest] = self._url(digest)
        try:
            return self._store.get_range(self._urls[digest], start, count)
        except UrlExpired:
            self._urls[digest] = self._url(digest)
            return self._store.get_range(self._urls[digest], start, count)

    def _url(self, digest: str) -> str:
        answer = self._api.post(f"/api/v1/teams/{segment(self._team)}/downloads", {"digests": [digest]})
        for each in answer.get("downloads", []):
            if each["digest"] == digest:
                return str(each["url"])
        raise TransferError(f"the store no longer has blob {digest[:12]}")

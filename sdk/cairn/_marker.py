"""A mark in a stream of bytes, found also where it comes in pieces."""

from __future__ import annotations


class Marker:
    """Splits what is read at a mark that comes once."""

    def __init__(self, mark: bytes) -> None:
        self._mark = mark
        self._held = b""
        self._passed = False

    def split(self, data: bytes) -> tuple[bytes, bool, bytes]:
        """What is before the mark, whether it has come now or earlier, and what is behind it.

        The end of `data` that may be the mark's beginning is held back until more comes.
        """
        if self._passed:
            return b"", True, data
        data, self._held = self._held + data, b""
        before, found, after = data.partition(self._mark)
        if found:
            self._passed = True
            return before, True, after
        start = data.find(self._mark[:1], max(0, len(data) - len(self._mark) + 1))
        while start >= 0 and not self._mark.startswith(data[start:]):
            start = data.find(self._mark[:1], start + 1)
        if start < 0:
            return data, False, b""
        self._held = data[start:]
        return data[:start], False, b""

    def rest(self) -> bytes:
        """What was held back, once nothing more comes."""
        held, self._held = self._held, b""
        return held

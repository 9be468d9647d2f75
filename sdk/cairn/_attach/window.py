"""How far ahead a sender may be of what the other end has taken."""

from __future__ import annotations

import asyncio

WINDOW = 512 * 1024
"""Bytes on the way, at most."""
_MESSAGE = 64
# Told when this much was taken since it was told last.
_STEP = WINDOW // 8


def cost(data: bytes) -> int:
    """What a message counts for: small ones are not free."""
    return len(data) + _MESSAGE


class Ahead:
    """The sender's side."""

    def __init__(self) -> None:
        self._sent = self._taken = 0
        self._moved = asyncio.Event()

    async def room(self, data: bytes) -> None:
        """Returns when this may be sent, and counts it."""
        while self._sent + cost(data) - self._taken > WINDOW:
            self._moved.clear()
            await self._moved.wait()
        self._sent += cost(data)

    def took(self, total: int) -> None:
        """The other end has taken this much, all in all."""
        self._taken = max(self._taken, total)
        self._moved.set()


class Taken:
    """The receiver's side: counts what it took, and says when to tell."""

    def __init__(self) -> None:
        self.total = self._told = 0

    def take(self, data: bytes) -> bool:
        """Counts; whether it is time to tell the total."""
        self.total += cost(data)
        if self.total - self._told < _STEP:
            return False
        self._told = self.total
        return True

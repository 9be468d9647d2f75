"""Passwords at rest: argon2id, made and checked in threads, a few at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from cairn_common.errors import Reason, ResourceExhausted

T = TypeVar("T")
AT_ONCE = 2
"""Each takes MEMORY and a core for some hundredths of a second."""
MOST_WAITING = 64
MEMORY = 19 * 1024
"""KiB"""


@dataclass(slots=True)
class Passwords:
    """Makes hashes and checks passwords against them."""

    _hasher: PasswordHasher = field(
        default_factory=lambda: PasswordHasher(time_cost=2, memory_cost=MEMORY, parallelism=1)
    )
    _slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_ONCE))
    _waiting: int = 0
    # Of no user: checked where there is none, so that it takes as long.
    _nobodys: str = field(init=False)

    def __post_init__(self) -> None:
        self._nobodys = self._hasher.hash("nobody signs in by this")

    async def hash(self, password: str) -> str:
        """What is stored. Raises ResourceExhausted where too many wait."""
        return await self._run(lambda: self._hasher.hash(password))

    async def matches(self, stored: str | None, password: str) -> bool:
        """Whether this is the password. With none stored it is not, after just as long.

        Raises ResourceExhausted where too many wait.
        """

        def check() -> bool:
            try:
                return self._verify(stored or self._nobodys, password) and stored is not None
            except InvalidHashError:
                # What is stored is none: nobody's is checked, for as long.
                self._verify(self._nobodys, password)
                return False

        return await self._run(check)

    def _verify(self, stored: str, password: str) -> bool:
        try:
            return self._hasher.verify(stored, password)
        except VerificationError:
            return False

    async def _run(self, work: Callable[[], T]) -> T:
        if self._waiting >= MOST_WAITING:
            raise ResourceExhausted(
                "Too many people sign in at this moment; try again in a few seconds.",
                reason=Reason.OVERLOADED,
                retry_after=2,
            )
        self._waiting += 1
        try:
            async with self._slots:
                return await asyncio.to_thread(work)
        finally:
            self._waiting -= 1

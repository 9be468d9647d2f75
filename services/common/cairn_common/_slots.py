"""How many calls there may be at a time, of all callers and of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from cairn_common.errors import Reason, ResourceExhausted


class Slots:
    """Room for calls."""

    def __init__(self, *, most: int, most_of_one: int) -> None:
        self._most = most
        self._most_of_one = most_of_one
        self._taken: Counter[str] = Counter()

    def take(self, who: str, *, alone: bool = True) -> Callable[[], None]:
        """Takes one, until what comes back is called; `alone` False: for a caller who asks for everybody.

        Raises ResourceExhausted (RATE_EXCEEDED).
        """
        if alone and self._taken[who] >= self._most_of_one:
            raise _full(f"{self._most_of_one} calls at a time are the most for one caller")
        if self._taken.total() >= self._most:
            raise _full(f"{self._most} calls at a time are the most for all callers")
        self._taken[who] += 1

        def give_back() -> None:
            self._taken[who] -= 1
            if not self._taken[who]:
                del self._taken[who]

        return give_back


def _full(text: str) -> ResourceExhausted:
    return ResourceExhausted(f"{text}; call again", reason=Reason.RATE_EXCEEDED, retry_after=1)

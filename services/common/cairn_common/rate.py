"""How often somebody may ask: a burst passes, a flood is told when to come back."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable

from cairn_common.errors import Reason, ResourceExhausted

_MOST_KNOWN = 10_000


class Rates:
    """So many requests a second for each caller, and a burst on top. Of those who rest nothing is kept."""

    def __init__(
        self, each_second: float, burst: float, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        """`each_second` 0: no limit."""
        self._each_second = each_second
        self._burst = max(burst, 1.0)
        self._monotonic = monotonic
        # When each caller has all of the burst again; who comes first there was there the longest ago.
        self._full_at: OrderedDict[str, float] = OrderedDict()

    def take(self, who: str) -> None:
        """One request of this caller. Raises ResourceExhausted (RATE_EXCEEDED) with when to come back."""
        if not self._each_second:
            return
        now, full_at = self._monotonic(), self.look(who)
        self._full_at[who] = full_at
        self._full_at.move_to_end(who)
        while len(self._full_at) > _MOST_KNOWN or next(iter(self._full_at.values())) <= now:
            self._full_at.popitem(last=False)

    def look(self, who: str) -> float:
        """When this caller would have all of the burst again after one more. Raises as `take`."""
        if not self._each_second:
            return 0.0
        now = self._monotonic()
        full_at = max(self._full_at.get(who, now), now) + 1 / self._each_second
        wait = full_at - now - self._burst / self._each_second
        if wait > 1e-9:
            raise ResourceExhausted(
                f"{self._each_second:g} requests a second, {self._burst:g} at once, is the most for a caller",
                reason=Reason.RATE_EXCEEDED,
                retry_after=math.ceil(wait),
            )
        return full_at

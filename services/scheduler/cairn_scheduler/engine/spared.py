"""Whether a job waits for nothing but that others, to be evicted for it, have run long enough or saved."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from cairn_scheduler.engine.comeback import comes_back
from cairn_scheduler.engine.victims import Search
from cairn_scheduler.engine.world import Code, Policy, Reason

NOTE = "spared"
_MINUTE = 60_000


def spared(reason: Reason, late: Search, options: Iterable[int], policy: Policy) -> Reason:
    """The reason that it waits for them, and until when at the latest; else the one that is given.

    `late`: the search for victims at a time when nobody is spared any more, to be made for these options.
    """
    for index in options:
        search = replace(late, option=late.request.options[index], keys=[], until=0)
        found = search.run(policy)
        if not found or comes_back(search, found, index, policy):
            continue
        until = max(search.spared_until(job) for job, _ in found)
        return replace(
            reason,
            code=Code.WAITING_FOR_VICTIMS,
            others=tuple(sorted(job.request.uid for job, _ in found)),
            # The next full minute: all that wait are told anew whenever it is another time.
            until=-(-until // _MINUTE) * _MINUTE,
            note=NOTE,
        )
    return reason

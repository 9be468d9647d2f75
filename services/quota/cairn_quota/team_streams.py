"""A stream on the bus for each team, that holds what its jobs log until the tracker has taken it in.

Each has its own limit, so a team that logs more than is taken in fills its own stream and no other team's.
The quota service makes them, because it is asked before anybody may publish.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from typing import NoReturn

import structlog

from cairn_common.bus import Bus
from cairn_common.errors import Unavailable
from cairn_common.subjects import RETIRED, team_stream, team_subjects
from cairn_quota.team_store import TeamStore

LEAST_BYTES = 16 * 2**20
"""However many teams there are, each may have so much waiting."""
LOOK_SECONDS = 2.0
# Who connects is not kept waiting for longer: without a stream what it says is refused, and it says it again.
_PATIENCE = 0.2
_MAKING_SECONDS = 5.0
# Where nobody publishes.
_NOWHERE = ("cairn.v1.job.retired.>",)
log = structlog.get_logger()


def share(teams: int, *, total: int, most: int) -> int:
    """What each of so many teams may have waiting on the bus, in bytes.

    Parts of `total` that are halved when the number of teams has doubled, so that limits change seldom; at
    most `most`, and at least `LEAST_BYTES` where `most` is not less.
    """
    parts = 1 << max(0, teams - 1).bit_length()
    return min(most, max(LEAST_BYTES, total // parts))


class TeamStreams:
    """Makes them, and says when they are there."""

    def __init__(self, teams: TeamStore, *, total: int, most: int) -> None:
        """`total`: bytes for all teams together, `most` for one."""
        self._teams = teams
        self._total = total
        self._most = most
        self._made: dict[str, int] = {}
        self._due = asyncio.Event()
        self._changed = asyncio.Condition()

    async def ready(self, teams: Iterable[str]) -> None:
        """Returns once each of these teams has its stream, or after a moment."""
        wanted = set(teams)
        if wanted <= self._made.keys():
            return
        self._due.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE), self._changed:
                await self._changed.wait_for(lambda: wanted <= self._made.keys())

    async def keep(self, bus: Bus) -> NoReturn:
        """For ever: a stream for each team there is, soon after it was made."""
        # A bus makes those again after a restart that it made itself.
        self._made.clear()
        await bus.retire_stream(RETIRED, _NOWHERE)
        while True:
            self._due.clear()
            try:
                await self._look(bus)
            except Unavailable as error:
                log.info("team_streams.waiting", reason=str(error.reason))
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._due.wait()

    async def _look(self, bus: Bus) -> None:
        teams = await self._teams.ids()
        each = share(len(teams), total=self._total, most=self._most)
        # Those that are there give up what a new one needs.
        for team in sorted(teams, key=lambda team: (team not in self._made, team)):
            if self._made.get(team) == each:
                continue
            try:
                async with asyncio.timeout(_MAKING_SECONDS):
                    await bus.ensure_stream(team_stream(team), team_subjects(team), max_bytes=each)
            except TimeoutError:
                # The bus is away, or has no room on its disk. The others' turn; this one's in the next round.
                log.error("team_streams.not_made", team=team, bytes=each)
                continue
            async with self._changed:
                self._made[team] = each
                self._changed.notify_all()

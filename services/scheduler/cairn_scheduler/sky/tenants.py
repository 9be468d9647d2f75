"""Who a job is for, in SkyPilot's books: a workspace for each team, a user for each person."""

from __future__ import annotations

import asyncio
import hashlib

import structlog

from cairn_scheduler.sky.api import Api, User
from cairn_scheduler.sky.errors import SkyError

log = structlog.get_logger(__name__)


def user_of(creator: str) -> User:
    """A caller such as `users/ada` as SkyPilot knows users."""
    name = creator.rpartition("/")[2] or "cairn"
    return User(hashlib.sha256(creator.encode()).hexdigest()[:8], name)


class Workspaces:
    """Made when a team first needs one; one that an operator has made, with its own rules, is used as it is.

    A server that lets nobody make workspaces is lived with: all jobs are in its default one then.
    """

    def __init__(self, api: Api) -> None:
        self._api = api
        self._known: set[str] = set()
        self._refused = False
        self._one = asyncio.Lock()

    async def config(self, team: str) -> dict[str, object]:
        """What is to be laid over SkyPilot's configuration for a team's job. Raises Away.

        The first time for a team takes as long as SkyPilot's check of all providers.
        """
        async with self._one:
            if team not in self._known and not self._refused:
                await self._make(team)
        return {"active_workspace": team} if team in self._known else {}

    async def _make(self, team: str) -> None:
        try:
            self._known |= await self._api.workspaces()
            if team not in self._known:
                body = {"workspace_name": team, "config": {}}
                self._known |= set(await self._api.ask("/workspaces/create", body) or {})
                log.info("sky.workspace_made", team=team)
        except SkyError as error:
            self._refused = True
            log.warning("sky.no_workspaces", error=str(error))

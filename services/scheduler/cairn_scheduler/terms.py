"""What requests are read with: who asks, the time, where there is to run, and the secrets that are kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from cairn_common.clock import Clock
from cairn_common.errors import InvalidArgument
from cairn_common.rpc import caller
from cairn_scheduler import again, submit
from cairn_scheduler.model import Job
from cairn_scheduler.places import Place
from cairn_scheduler.quota import Quota
from cairn_scheduler.submit import AgainRequest, CreateRequest, Terms
from cairn_scheduler.task import Task


class Reading:
    """Terms for the caller's requests."""

    def __init__(self, quota: Quota, *, places: Callable[[], Sequence[Place]], clock: Clock) -> None:
        self._quota = quota
        self._places = places
        self._clock = clock

    async def terms(self, team: str, *messages: CreateRequest) -> Terms:
        """For tasks, of one team. Raises Unavailable where a secret is to be asked for, and cannot be."""
        places = tuple(self._places())
        names: dict[str, None] = {}
        tasks: dict[str, Task] = {}
        for message in messages:
            # Whoever reads it next says what is wrong with it, and which one it is.
            with suppress(InvalidArgument):
                task = tasks[message.task] = submit.parsed(message.task, places)
                names |= dict.fromkeys(submit.unknown(task, message))
        stored = await self._stored(team, list(names))
        return Terms(caller().subject, places, self._clock.now(), stored, tasks)

    async def terms_again(self, source: Job, message: AgainRequest) -> Terms:
        """For what a job ran. Raises as `terms`."""
        stored = await self._stored(source.team, again.unknown(source, message))
        return Terms(caller().subject, tuple(self._places()), self._clock.now(), stored)

    async def _stored(self, team: str, names: Sequence[str]) -> Mapping[str, str]:
        found: dict[str, str] = {}
        for at in range(0, len(names), submit.MOST_SECRETS):
            part = names[at : at + submit.MOST_SECRETS]
            found |= await self._quota.secrets(part, team=team, user=caller().subject)
        return found

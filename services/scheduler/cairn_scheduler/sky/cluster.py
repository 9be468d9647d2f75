"""SkyPilot as a cluster: one SkyPilot cluster per attempt, named by the attempt's uid.

The runners tell over the bus what happens; SkyPilot's own view is asked for only where they are silent. What
must outlive this process is in one small file per attempt: a new scheduler reads the bus again from there,
launches under the same name what was half launched, and takes away what belongs to nobody.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, NoReturn

import structlog

from cairn.job.v1 import events_pb2
from cairn_common.errors import Unavailable
from cairn_common.ids import is_uid
from cairn_scheduler.causes import Evidence
from cairn_scheduler.cluster import (
    Ended,
    Held,
    LaunchFailed,
    Order,
    Priced,
    Quiet,
    Remains,
    Report,
    Started,
    Stepped,
)
from cairn_scheduler.infra import Placement, Survey
from cairn_scheduler.model import Resources, Spec
from cairn_scheduler.sky import records
from cairn_scheduler.sky.api import MOST_LAUNCHES, Api
from cairn_scheduler.sky.ears import Ears
from cairn_scheduler.sky.errors import Away, Kind, SkyError, explained
from cairn_scheduler.sky.order import Surroundings, task_text, trial_text
from cairn_scheduler.sky.ranks import Ranks
from cairn_scheduler.sky.records import Record, Records
from cairn_scheduler.sky.shipped import all_shipped
from cairn_scheduler.sky.survey import Surveyor
from cairn_scheduler.sky.tenants import Workspaces, user_of
from cairn_scheduler.sky.tool import Tool

log = structlog.get_logger(__name__)

NAME = "skypilot"
# Nobody knows how much there is; SkyPilot says it when it is asked for too much.
BOUNDLESS = Resources(2**50, 2**50, "", 2**50)
_STOP_MARGIN = 15.0
_MOST_EARLY = 1000
_PAUSES = (1.0, 30.0)
_AWAY = "SkyPilot's API server does not answer; the launch waits for it"
# One question about one launch takes SkyPilot's server about 0.2 s.
_STORY_SECONDS = 2.0


@dataclass(slots=True)
class Watched:
    """What this process knows of an attempt that is not tidied away."""

    record: Record
    ranks: Ranks
    started: bool = False
    # Nothing of it may run any more, and that is reported.
    ended: bool = False
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    killer: asyncio.TimerHandle | None = None
    # Rounds in which SkyPilot did not list its cluster.
    missing: int = 0
    asked: float = 0.0
    # What SkyPilot said of its launch so far.
    story: set[tuple[float, str]] = field(default_factory=set)


class SkyCluster:
    """See `open_sky`; everything runs on the event loop that opened it."""

    def __init__(
        self,
        api: Api,
        *,
        kept: Records,
        ears: Ears,
        tool: Tool,
        around: Surroundings,
        surveyor: Surveyor,
        provision_seconds: int,
        prefix: str,
    ) -> None:
        self._api = api
        self._surveyor = surveyor
        self._provision_seconds = provision_seconds
        self._workspaces = Workspaces(api)
        self._kept = kept
        self._ears = ears
        self._tool = tool
        self._around = around
        self._prefix = prefix
        self.watched: dict[str, Watched] = {}
        # Somebody may be there whose price is not known.
        self.came_up = asyncio.Event()
        self._reports: asyncio.Queue[Report] = asyncio.Queue()
        self._tasks: set[asyncio.Task[None]] = set()
        self._launches = asyncio.Semaphore(MOST_LAUNCHES)
        # Words about attempts that an earlier scheduler had begun to launch, until they are ordered again.
        self._early: dict[str, list[events_pb2.JobEvent]] = {}

    @property
    def name(self) -> str:
        """The pool's id."""
        return NAME

    def capacity(self) -> Resources:
        """Without a bound: SkyPilot knows, and says so when asked."""
        return BOUNDLESS

    async def survey(self, *, refresh: bool) -> Survey:
        """What SkyPilot reaches, and what it does not."""
        return await self._surveyor.survey(refresh=refresh)

    async def placements(self, spec: Spec) -> Sequence[Placement]:
        """SkyPilot's choices, in its order."""
        return await self._surveyor.placements(trial_text(spec))

    async def launch(self, order: Order) -> None:
        """Begins to launch; what comes of it is reported. Raises LaunchFailed where it cannot even begin."""
        if order.attempt_uid in self.watched:
            return
        record = Record(
            uid=order.attempt_uid,
            team=order.team,
            creator=order.creator,
            run_uid=order.run_uid,
            cluster=self._prefix + order.attempt_uid,
            num_nodes=order.spec.num_nodes,
            grace=order.spec.grace,
            after=self._ears.sequence,
        )
        if order.attempt_uid in self._early:
            earlier = self._kept.get(order.attempt_uid)
            record = replace(record, after=earlier.after if earlier else record.after)
        try:
            record = self._kept.save(record)
            task = await asyncio.to_thread(task_text, order, tool=self._tool, around=self._around)
        except OSError as error:
            raise LaunchFailed(f"The attempt could not be written down: {error.strerror}.") from error
        if order.attempt_uid not in self.watched:
            watched = self._watch(record)
            again = record.uid in self._early
            for event in self._early.pop(record.uid, ()):
                self.hear(event)
            self._spawn(self._bring_up(watched, task, anew=again), f"launch {record.uid}")

    async def stop(self, attempt_uid: str, *, notice: str = "") -> None:
        """Tells the runners; takes the cluster away where they have not stopped in time."""
        watched = self.watched.get(attempt_uid)
        if watched is None or watched.ended:
            return
        if not watched.record.stopping:
            watched.record = self._kept.save(watched.record, stopping=True)
        watched.changed.set()
        if watched.record.phase == records.LAUNCHING and not watched.ranks.heard:
            # Nothing of it runs that could be asked. `_bring_up` ends one that SkyPilot works at.
            if not watched.record.request:
                self.end(watched, Evidence(stopped=True, end_time=time.time()))
            return
        await self._tell_stop(watched, notice)
        if watched.killer is None:
            self._kill_later(watched)

    async def list(self) -> set[str]:
        """The attempts that are launched, or whose cluster is not gone yet."""
        return set(self.watched)

    async def reports(self) -> AsyncIterator[Report]:
        """What happens."""
        while True:
            yield await self._reports.get()

    async def remains(self, attempt_uid: str) -> Remains:
        """Its runners ship what they have before the cluster goes; after that there is nothing."""
        watched = self.watched.get(attempt_uid)
        down = watched is None or watched.record.phase == records.DOWN
        return Remains.SHIPPED if down else Remains.BUSY

    async def ship(self, attempt_uid: str, *, token: str) -> None:
        """Nothing is left here to be shipped."""

    async def tidy(self, attempt_uid: str) -> None:
        """Forgets an attempt whose cluster is gone."""
        watched = self.watched.get(attempt_uid)
        if watched is None or watched.record.phase == records.DOWN:
            self._kept.remove(attempt_uid)
            self.watched.pop(attempt_uid, None)

    async def inventory(self) -> Sequence[Held]:
        """The clusters that bear this platform's name. Raises Unavailable."""
        try:
            found = await self._api.inventory()
        except (Away, SkyError) as error:
            raise Unavailable(
                f"SkyPilot's API server does not say which clusters there are: {error}"
            ) from None
        return [
            Held(
                attempt_uid=uid,
                name=one.name,
                status=one.status,
                create_time=None if one.launched is None else datetime.fromtimestamp(one.launched, UTC),
                cost=one.cost,
                leaving=self._leaving(uid),
            )
            for one in found
            if (uid := self.attempt_of(one.name)) is not None
        ]

    async def discard(self, attempt_uid: str) -> None:
        """Begins to take a cluster away that nobody here knows."""
        if not self._leaving(attempt_uid):
            self._spawn(self.remove(self._prefix + attempt_uid), f"discard {attempt_uid}")

    def attempt_of(self, cluster: str) -> str | None:
        """Whose cluster bears this name; None for one that is not of this platform."""
        uid = cluster.removeprefix(self._prefix)
        return uid if cluster.startswith(self._prefix) and is_uid(uid) else None

    def _leaving(self, attempt_uid: str) -> bool:
        watched = self.watched.get(attempt_uid)
        return watched is not None and watched.record.phase == records.ENDED

    def adopt(self) -> None:
        """Finds the attempts of earlier schedulers. Call it once, before anything else.

        One of which it is not known that SkyPilot has it is not listed: it is ordered again by its name.
        """
        self.came_up.set()
        for record in self._kept.all():
            if record.phase == records.LAUNCHING and not record.request:
                self._early[record.uid] = []
                continue
            watched = self._watch(record)
            log.info("attempt.adopted", attempt=record.uid, cluster=record.cluster, phase=record.phase)
            if record.price:
                self._reports.put_nowait(Priced(record.uid, record.price))
            if record.evidence is not None:
                watched.ended = True
                self._reports.put_nowait(Ended(record.uid, record.evidence))
            if record.phase == records.LAUNCHING:
                self._spawn(self._bring_up(watched, None), f"launch {record.uid}")
            elif record.phase == records.ENDED:
                self._spawn(self._take_down(watched), f"down {record.uid}")
            elif record.phase == records.DOWN:
                self._reports.put_nowait(Quiet(record.uid))
            elif record.stopping:
                self._kill_later(watched)

    async def detach(self) -> None:
        """Stops watching; what runs goes on."""
        await self._surveyor.stop()
        for watched in self.watched.values():
            if watched.killer is not None:
                watched.killer.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def hear(self, event: events_pb2.JobEvent) -> None:
        """A word of a runner."""
        if len(early := self._early.get(event.attempt_uid, [event] * _MOST_EARLY)) < _MOST_EARLY:
            early.append(event)
        watched = self.watched.get(event.attempt_uid)
        if watched is None or event.run_uid != watched.record.run_uid:
            return
        ranks = watched.ranks
        ranks.take(event, now=time.monotonic())
        watched.changed.set()
        if watched.ended:
            return
        if ranks.start_time is not None and not watched.started:
            watched.started = True
            start = datetime.fromtimestamp(ranks.start_time, UTC)
            self._reports.put_nowait(Started(watched.record.uid, start, tuple(ranks.pids.values())))
        if ranks.over and ranks.evidence is not None:
            self.end(watched, ranks.evidence)
        elif ranks.failed is not None:
            if watched.killer is None:
                log.info("attempt.rank_failed", attempt=watched.record.uid, rank=ranks.failed.rank)
                self._kill_later(watched)
            # With every word: a rank that has only just begun has not heard the one before.
            self._spawn(self._tell_stop(watched), f"stop {watched.record.uid}")

    def end(self, watched: Watched, evidence: Evidence) -> None:
        """Reports an end, once, and takes the cluster away."""
        if watched.ended:
            return
        watched.ended = True
        if watched.killer is not None:
            watched.killer.cancel()
        watched.record = self._kept.save(watched.record, phase=records.ENDED, evidence=evidence)
        watched.changed.set()
        self._reports.put_nowait(Ended(watched.record.uid, evidence))
        self._spawn(self._take_down(watched), f"down {watched.record.uid}")

    def price(self, watched: Watched, price: int) -> None:
        """Notes what an hour costs, once, and reports it where it is not free."""
        watched.record = self._kept.save(watched.record, price=price)
        if price > 0:
            self._reports.put_nowait(Priced(watched.record.uid, price))

    def _watch(self, record: Record) -> Watched:
        # Silent from now on, at the earliest: after a restart not all are to be asked for at once.
        watched = Watched(record, Ranks(record.num_nodes), asked=time.monotonic())
        self.watched[record.uid] = watched
        return watched

    async def _bring_up(self, watched: Watched, task: str | None, *, anew: bool = False) -> None:
        """Launches, waiting for a server that is away; ends the attempt where that cannot succeed.

        `task` None: the launch is under way since an earlier scheduler; where the server has forgotten it the
        attempt is to be ordered again. `anew`: something of an earlier launch may be there still.
        """
        pause = _PAUSES[0]
        async with self._launches:
            while not watched.ended and not watched.record.stopping:
                try:
                    if anew:
                        # Its runner's token is no good any more, and behind its job another would wait.
                        await self.remove(watched.record.cluster)
                        anew = False
                        # Meanwhile it may have been told to stop, or its last word may have come.
                        continue
                    if not watched.record.request and task is not None:
                        await self._ask_for(watched, task)
                    await self._follow(watched, watched.record.request)
                    return
                except Away as error:
                    log.warning("sky.waiting", attempt=watched.record.uid, error=str(error))
                    if pause == _PAUSES[0]:
                        self._step(watched, time.time(), _AWAY)
                except SkyError as error:
                    if watched.ranks.heard:
                        # Whatever became of the request: what it was for runs.
                        self._up(watched)
                        return
                    if error.kind is not Kind.FORGOTTEN:
                        printed = await self._api.printed(watched.record.request)
                        self.end(watched, _not_launched(explained(error, printed)))
                        return
                    log.info("sky.launch_forgotten", attempt=watched.record.uid)
                    watched.record = self._kept.save(watched.record, request="")
                    if task is None:
                        self._leave_to_the_loop(watched)
                        return
                    anew = True
                await asyncio.sleep(pause)
                pause = min(pause * 2, _PAUSES[1])
        if not watched.ended:
            self.end(watched, Evidence(stopped=True, end_time=time.time()))

    async def _ask_for(self, watched: Watched, task: str) -> None:
        record = watched.record
        config = {
            "slurm": {"provision_timeout": self._provision_seconds},
            **await self._workspaces.config(record.team),
        }
        user = user_of(record.creator)
        request = await self._api.launch(record.cluster, task, config=config, user=user)
        watched.record = self._kept.save(watched.record, request=request)
        log.info("sky.launching", attempt=record.uid, cluster=record.cluster, request=request)

    async def _follow(self, watched: Watched, request: str) -> None:
        """Waits for a launch, or for a reason not to wait any longer."""
        done = asyncio.ensure_future(self._api.wait(request))
        story = asyncio.create_task(self._narrate(watched), name=f"story {watched.record.uid}")
        try:
            while not done.done() and not watched.ended and not watched.record.stopping:
                watched.changed.clear()
                news = asyncio.ensure_future(watched.changed.wait())
                await asyncio.wait({done, news}, return_when=asyncio.FIRST_COMPLETED)
                news.cancel()
            if not done.done():
                if watched.record.stopping and not watched.ended and not watched.ranks.heard:
                    await self._api.cancel(request)
                    self.end(watched, Evidence(stopped=True, end_time=time.time()))
                return
            done.result()
        finally:
            done.cancel()
            story.cancel()
        await self._hear_story(watched)
        self._up(watched)

    async def _narrate(self, watched: Watched) -> NoReturn:
        """Asks now and then how far a launch has come."""
        while True:
            await asyncio.sleep(_STORY_SECONDS)
            await self._hear_story(watched)

    async def _hear_story(self, watched: Watched) -> None:
        """Reports what is new of it. That it cannot be had is no harm."""
        try:
            events = await self._api.story(watched.record.cluster)
        except (Away, SkyError):
            return
        for time_, text in events:
            self._step(watched, time_, text)

    def _step(self, watched: Watched, time_: float, text: str) -> None:
        """Reports how far a launch has come, each step once."""
        if watched.ended or (time_, text) in watched.story:
            return
        watched.story.add((time_, text))
        moment = datetime.fromtimestamp(time_, UTC)
        self._reports.put_nowait(Stepped(watched.record.uid, len(watched.story), moment, text))

    def _leave_to_the_loop(self, watched: Watched) -> None:
        """Does as if it had never been launched: with its next round the loop orders it again."""
        self.watched.pop(watched.record.uid, None)
        self._early[watched.record.uid] = []

    def _up(self, watched: Watched) -> None:
        if not watched.ended:
            watched.record = self._kept.save(watched.record, phase=records.UP)
            watched.asked = time.monotonic()
            self.came_up.set()
            log.info("sky.launched", attempt=watched.record.uid, cluster=watched.record.cluster)

    async def _take_down(self, watched: Watched) -> None:
        """Waits for the last words, then takes the cluster away, however long that takes."""
        evidence = watched.record.evidence
        told = evidence is not None and evidence.exit_code is not None
        lost = evidence is not None and evidence.lost
        if not lost and not await all_shipped(watched.ranks, watched.changed, told=told):
            log.warning("attempt.not_shipped", attempt=watched.record.uid)
        await self.remove(watched.record.cluster)
        watched.record = self._kept.save(watched.record, phase=records.DOWN)
        self._reports.put_nowait(Quiet(watched.record.uid))

    async def remove(self, cluster: str) -> None:
        """Takes a cluster away; returns when it is gone."""
        pause = _PAUSES[0]
        while True:
            try:
                await self._api.down(cluster)
                log.info("sky.down", cluster=cluster)
                return
            except SkyError as error:
                if error.kind is Kind.GONE:
                    return
                log.warning("sky.not_down", cluster=cluster, error=str(error))
            except Away as error:
                log.warning("sky.not_down", cluster=cluster, error=str(error))
            await asyncio.sleep(pause)
            pause = min(pause * 2, _PAUSES[1])

    async def _tell_stop(self, watched: Watched, notice: str = "") -> None:
        record = watched.record
        try:
            await self._ears.tell_stop(
                team=record.team, run_uid=record.run_uid, attempt_uid=record.uid, notice=notice
            )
        except Unavailable as error:
            log.warning("sky.stop_untold", attempt=record.uid, error=error.message)

    def _kill_later(self, watched: Watched) -> None:
        delay = watched.record.grace + _STOP_MARGIN
        watched.killer = asyncio.get_running_loop().call_later(delay, self._kill, watched)

    def _kill(self, watched: Watched) -> None:
        """The runners did not end in time: their cluster goes, and they with it."""
        evidence = watched.ranks.failed or Evidence(
            stopped=True, end_time=time.time(), start_time=watched.ranks.start_time
        )
        log.warning("attempt.killed", attempt=watched.record.uid, cluster=watched.record.cluster)
        self.end(watched, evidence)

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("sky.failed", work=task.get_name(), exc_info=error)


def _not_launched(error: SkyError) -> Evidence:
    refused, full = error.kind is Kind.REFUSED, error.kind is Kind.FULL
    return Evidence(message=str(error), refused=refused, full=full, end_time=time.time())

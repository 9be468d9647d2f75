"""SchedulerService: what callers ask, and who may ask it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import TypeVar

import grpc
import structlog

from cairn.scheduler.v1 import job_pb2, scheduler_pb2, scheduler_pb2_grpc, sweep_pb2, timeline_pb2
from cairn_common.auth import Role, access, require
from cairn_common.clock import Clock
from cairn_common.db import Database
from cairn_common.errors import (
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Reason,
)
from cairn_common.ids import check_id, check_uid, parse_name
from cairn_common.paging import decode_token, encode_token, page_size, time_and_uid
from cairn_common.rpc import caller
from cairn_scheduler import (
    again,
    dependency_store,
    history,
    model,
    queue_store,
    steer,
    store,
    submit,
    wire,
    yielding,
)
from cairn_scheduler.intake import Intake
from cairn_scheduler.model import Hold, Job, Resources
from cairn_scheduler.places import Place
from cairn_scheduler.store import Filter, Sweep
from cairn_scheduler.submit import CreateRequest, Draft, Terms, team_of
from cairn_scheduler.terms import Reading
from cairn_scheduler.timeline import timeline
from cairn_scheduler.watch import Watch

log = structlog.get_logger(__name__)

D = TypeVar("D", Draft, list[Draft])

NAME = "cairn.scheduler.v1.SchedulerService"
ACCESS = {
    f"/{NAME}/CreateJob": access(Role.MEMBER),
    f"/{NAME}/BatchCreateJobs": access(Role.MEMBER),
    f"/{NAME}/GetJob": access(Role.VIEWER),
    f"/{NAME}/GetTimeline": access(Role.VIEWER),
    f"/{NAME}/ListJobs": access(Role.VIEWER),
    f"/{NAME}/CancelJob": access(Role.MEMBER),
    f"/{NAME}/HoldJob": access(Role.MEMBER),
    f"/{NAME}/ReleaseJob": access(Role.MEMBER),
    f"/{NAME}/PreemptJob": access(Role.ADMIN),
    f"/{NAME}/RerunJob": access(Role.MEMBER),
    f"/{NAME}/ResumeJob": access(Role.MEMBER),
    f"/{NAME}/WatchJobs": access(Role.VIEWER),
    f"/{NAME}/CreateSweep": access(Role.MEMBER),
    f"/{NAME}/GetSweep": access(Role.VIEWER),
    f"/{NAME}/ListPools": access(Role.VIEWER),
}
"""Method to what it asks of its caller; the role is held per team by `require` in each handler."""

EVERY_TEAM = "-"
# gRPC takes 4 MiB; a page ends early where its jobs are large.
_PAGE_BYTES = 3 * 2**20

Context = grpc.aio.ServicerContext[object, object]


class SchedulerApi(scheduler_pb2_grpc.SchedulerServiceServicer):
    """Handlers: check, read or write, answer. What follows from a write is the loop's."""

    def __init__(
        self,
        db: Database,
        *,
        places: Callable[[], Sequence[Place]],
        clock: Clock,
        watch: Watch,
        wake: Callable[[], None],
        intake: Intake,
        reading: Reading,
    ) -> None:
        self._db = db
        self._places = places
        self._clock = clock
        self._watch = watch
        self._wake = wake
        self._intake = intake
        self._reading = reading

    async def CreateJob(self, request: scheduler_pb2.CreateJobRequest, context: Context) -> job_pb2.Job:
        """Queues one job, once for each request_id."""
        team = team_of(request.parent)
        require(caller(), team, Role.MEMBER)
        terms = await self._reading.terms(team, request)
        lacking = _lacking(terms, request)
        read = await self._read(
            team, partial(submit.draft_job, request), terms, lacking, store.job_by_request
        )
        draft = await self._after(read)
        if request.validate_only:
            return wire.job_message(draft.jobs[0])
        return (await self._create([draft]))[0]

    async def BatchCreateJobs(
        self, request: scheduler_pb2.BatchCreateJobsRequest, context: Context
    ) -> scheduler_pb2.BatchCreateJobsResponse:
        """Queues many jobs in one transaction, each once for its request_id."""
        team = team_of(request.parent)
        require(caller(), team, Role.MEMBER)
        terms = await self._reading.terms(team, *request.requests)
        lacking = _lacking(terms, *request.requests, batch=request.request_id)
        made = partial(submit.draft_batch, request)
        read = await self._read(team, made, terms, lacking, store.job_by_request)
        drafts = [await self._after(draft) for draft in read]
        if request.validate_only or not drafts:
            jobs = [wire.job_message(draft.jobs[0]) for draft in drafts]
        else:
            await self._refuse_another_batch(drafts[0])
            jobs = await self._create(drafts)
        return scheduler_pb2.BatchCreateJobsResponse(jobs=[wire.brief(job) for job in jobs])

    async def CreateSweep(
        self, request: scheduler_pb2.CreateSweepRequest, context: Context
    ) -> sweep_pb2.Sweep:
        """Queues the jobs of a grid in one transaction, once for each request_id."""
        team = team_of(request.parent)
        require(caller(), team, Role.MEMBER)
        terms = await self._reading.terms(team, request)
        made, lacking = partial(submit.draft_sweep, request), _lacking(terms, request)
        draft = await self._after(await self._read(team, made, terms, lacking, store.sweep_by_request))
        assert draft.sweep is not None
        if request.validate_only:
            return _sweep_message(draft.sweep, draft.jobs)
        return await self._create_sweep(draft, draft.sweep)

    async def GetJob(self, request: scheduler_pb2.GetJobRequest, context: Context) -> job_pb2.Job:
        """One job, whole."""
        team, uid = _job_name(request.name)
        require(caller(), team, Role.VIEWER)
        return wire.job_message(await steer.found(self._db, team=team, uid=uid))

    async def GetTimeline(
        self, request: scheduler_pb2.GetTimelineRequest, context: Context
    ) -> timeline_pb2.Timeline:
        """What happened to a job, from its submission on."""
        team, uid = _job_name(request.name)
        require(caller(), team, Role.VIEWER)
        job = await steer.found(self._db, team=team, uid=uid)
        entries, steps = await history.entries(self._db, uid), await history.steps(self._db, uid)
        return wire.timeline_message(job, timeline(job, entries, steps))

    async def GetSweep(self, request: scheduler_pb2.GetSweepRequest, context: Context) -> sweep_pb2.Sweep:
        """One sweep with its jobs, brief."""
        parts = parse_name("teams/{team}/sweeps/{sweep}", request.name)
        require(caller(), parts["team"], Role.VIEWER)
        found = await store.sweep(self._db, team=parts["team"], uid=check_uid(parts["sweep"], "name"))
        if found is None:
            raise NotFound(
                f"there is no sweep {parts['sweep']} in team {parts['team']}", reason=Reason.SWEEP_NOT_FOUND
            )
        return _sweep_message(found, await store.sweep_jobs(self._db, found.uid))

    async def ListJobs(
        self, request: scheduler_pb2.ListJobsRequest, context: Context
    ) -> scheduler_pb2.ListJobsResponse:
        """A page of jobs; it holds fewer than asked for where they are large."""
        chosen, scope = self._filter(request)
        size = page_size(request.page_size)
        jobs = await store.list_jobs(self._db, chosen, limit=size + 1)
        answer = scheduler_pb2.ListJobsResponse()
        room = _PAGE_BYTES
        for job in jobs[:size]:
            message = wire.job_message(job)
            room -= message.ByteSize()
            if room < 0 and answer.jobs:
                break
            answer.jobs.append(message)
        if len(answer.jobs) < len(jobs):
            last = jobs[len(answer.jobs) - 1]
            time = last.update_time if chosen.updated_after else last.create_time
            answer.next_page_token = encode_token({"time": time.isoformat(), "uid": last.uid}, scope=scope)
        return answer

    async def CancelJob(self, request: scheduler_pb2.CancelJobRequest, context: Context) -> job_pb2.Job:
        """Cancels at once what does not run, and asks what runs to stop."""
        now = self._clock.now()
        return await self._steer(request.name, Role.MEMBER, lambda job: model.cancel(job, now))

    async def HoldJob(self, request: scheduler_pb2.HoldJobRequest, context: Context) -> job_pb2.Job:
        """Takes a job out of the queue; one that runs is preempted first."""
        why, now = steer.reason_of(request.reason), self._clock.now()
        kind, role = (Hold.ADMIN, Role.ADMIN) if request.admin else (Hold.USER, Role.MEMBER)
        return await self._steer(request.name, role, lambda job: yielding.hold(job, now, kind=kind, why=why))

    async def ReleaseJob(self, request: scheduler_pb2.ReleaseJobRequest, context: Context) -> job_pb2.Job:
        """Puts a held job back into the queue."""
        team, _ = _job_name(request.name)
        now, by_admin = self._clock.now(), caller().role(team) >= Role.ADMIN

        def step(job: Job) -> Job:
            steer.releasable(job, by_admin=by_admin)
            return yielding.release(job, now)

        return await self._steer(request.name, Role.MEMBER, step)

    async def PreemptJob(self, request: scheduler_pb2.PreemptJobRequest, context: Context) -> job_pb2.Job:
        """Takes a job's place; it goes on later from its checkpoint."""
        told, now = steer.reason_of(request.reason), self._clock.now()
        why = f"by {caller().subject}" + (f" ({told})" if told else "")
        return await self._steer(request.name, Role.ADMIN, lambda job: yielding.preempt(job, now, why=why))

    async def RerunJob(self, request: scheduler_pb2.RerunJobRequest, context: Context) -> job_pb2.Job:
        """Queues what a job ran, from the beginning."""
        return await self._again(request)

    async def ResumeJob(self, request: scheduler_pb2.ResumeJobRequest, context: Context) -> job_pb2.Job:
        """Queues what a job ran, from a checkpoint."""
        return await self._again(request)

    async def WatchJobs(
        self, request: scheduler_pb2.WatchJobsRequest, context: Context
    ) -> AsyncIterator[scheduler_pb2.WatchJobsResponse]:
        """What there is now, then each change as it commits."""
        team = team_of(request.parent)
        require(caller(), team, Role.VIEWER)
        if request.job:
            named, uid = _job_name(request.job) if "/" in request.job else (team, request.job)
            if named != team:
                raise NotFound(f"there is no job {uid} in team {team}", reason=Reason.JOB_NOT_FOUND, job=uid)
            await steer.found(self._db, team=team, uid=check_uid(uid, "job"))
        else:
            uid = ""
        async for reply in self._watch.jobs(team=team, uid=uid, cursor=request.cursor):
            yield reply

    async def ListPools(
        self, request: scheduler_pb2.ListPoolsRequest, context: Context
    ) -> scheduler_pb2.ListPoolsResponse:
        """Each pool's capacity, and how much of it no job holds."""
        placed = [one for one in await queue_store.entries(self._db) if one.state.placed]
        answer = scheduler_pb2.ListPoolsResponse()
        for place in self._places():
            needs = [one.resources.times(one.num_nodes) for one in placed if one.pool == place.name]
            has = place.capacity
            free = Resources(
                cpu_milli=max(0, has.cpu_milli - sum(need.cpu_milli for need in needs)),
                gpus=max(0, has.gpus - sum(need.gpus for need in needs)),
                accelerator=has.accelerator,
                memory_mib=max(0, has.memory_mib - sum(need.memory_mib for need in needs)),
            )
            answer.pools.add(
                name=f"pools/{place.name}",
                capacity=wire.resources_message(has),
                free=wire.resources_message(free),
            )
        return answer

    async def _again(self, request: submit.AgainRequest) -> job_pb2.Job:
        team, uid = _job_name(request.name)
        require(caller(), team, Role.MEMBER)
        source = await steer.found(self._db, team=team, uid=uid)
        terms = await self._reading.terms_again(source, request)
        lacking = [(request.request_id, again.unknown(source, request))]
        made = partial(again.draft, source, request)
        draft = await self._read(team, made, terms, lacking, store.job_by_request)
        if request.validate_only:
            return wire.job_message(draft.jobs[0])
        return (await self._create([draft]))[0]

    async def _steer(self, name: str, role: Role, step: Callable[[Job], Job]) -> job_pb2.Job:
        team, uid = _job_name(name)
        require(caller(), team, role)
        job, changed = await steer.change(self._db, team=team, uid=uid, step=step, actor=caller().subject)
        if changed:
            self._wake()
        return wire.job_message(job)

    async def _read(
        self,
        team: str,
        draft: Callable[[Terms], D],
        terms: Terms,
        lacking: Sequence[tuple[str, Sequence[str]]],
        find: Callable[..., Awaitable[object]],
    ) -> D:
        """What a request asks for. Of what its request_id has made before, a stored secret that is gone since
        is not missed. `lacking`: that id, and the secrets whose values did not come, of each that is made."""
        try:
            return draft(terms)
        except InvalidArgument:
            gone = {id: each for id, each in lacking if not terms.stored.keys() >= set(each)}
            if not gone:
                raise
            for id in gone:
                if not id or await find(self._db, team=team, request_id=id) is None:
                    raise
        missed = {name: "" for each in gone.values() for name in each}
        return draft(replace(terms, stored={**missed, **terms.stored}))

    async def _after(self, draft: Draft) -> Draft:
        """The draft, its jobs held where they are to run after others. Raises NotFound (JOB_NOT_FOUND),
        InvalidArgument, FailedPrecondition (JOB_ENDED) where one of these has failed already."""
        if not draft.after or await self._came_before(draft):
            return draft
        found = await dependency_store.resolve(self._db, team=draft.team, wishes=draft.after)
        return submit.after(draft, found, await dependency_store.fate(self._db, found))

    async def _came_before(self, draft: Draft) -> bool:
        """Whether its request_id was used already: then what it named then counts."""
        if not draft.request.id:
            return False
        find = store.sweep_by_request if draft.sweep is not None else store.job_by_request
        return await find(self._db, team=draft.team, request_id=draft.request.id) is not None

    async def _refuse_another_batch(self, first: Draft) -> None:
        """Before one that is longer than the first under its id could add to that."""
        if not first.request.id:
            return
        known = await store.job_by_request(self._db, team=first.team, request_id=first.request.id)
        if known is not None:
            _check_same(first, known[1])

    async def _create(self, drafts: Sequence[Draft]) -> list[job_pb2.Job]:
        """The jobs of drafts of one job each, in their order: new ones, or those made before."""
        made = await self._intake.put(drafts)
        if made:
            log.info("jobs.submitted", jobs=len(made), team=drafts[0].team)
            self._wake()
        return [
            (draft.message or wire.job_message(draft.jobs[0]))
            if draft.jobs[0].uid in made
            else wire.job_message(await self._made_before(draft))
            for draft in drafts
        ]

    async def _made_before(self, draft: Draft) -> Job:
        known = await store.job_by_request(self._db, team=draft.team, request_id=draft.request.id)
        assert known is not None
        _check_same(draft, known[1])
        return known[0]

    async def _create_sweep(self, draft: Draft, sweep: Sweep) -> sweep_pb2.Sweep:
        if await self._intake.put_sweep(draft, sweep):
            log.info("sweep.submitted", sweep=sweep.uid, team=sweep.team, jobs=len(draft.jobs))
            self._wake()
            return _sweep_message(sweep, draft.jobs)
        known = await store.sweep_by_request(self._db, team=draft.team, request_id=draft.request.id)
        assert known is not None
        _check_same(draft, known[1])
        return _sweep_message(known[0], await store.sweep_jobs(self._db, known[0].uid))

    def _filter(self, request: scheduler_pb2.ListJobsRequest) -> tuple[Filter, str]:
        team = team_of(request.parent)
        if team == EVERY_TEAM:
            if not caller().is_service:
                raise PermissionDenied("only Cairn's own services may list every team's jobs")
        else:
            require(caller(), team, Role.VIEWER)
        sweep = request.sweep
        if sweep:
            sweep = parse_name("teams/{team}/sweeps/{sweep}", sweep)["sweep"] if "/" in sweep else sweep
            check_uid(sweep, "sweep")
        if request.experiment:
            check_id(request.experiment, "experiment")
        states = wire.states(request.states)
        after = _moment(request)
        scope = f"jobs/{team}/{sorted(states)}/{request.experiment}/{sweep}/{after}/{request.admitted}"
        token = request.page_token
        chosen = Filter(
            team=None if team == EVERY_TEAM else team,
            states=states,
            experiment=request.experiment,
            sweep=sweep,
            updated_after=after,
            after=decode_token(token, scope=scope, read=time_and_uid) if token else None,
            admitted=request.admitted,
        )
        return chosen, scope


def _moment(request: scheduler_pb2.ListJobsRequest) -> datetime | None:
    if not request.HasField("updated_after"):
        return None
    try:
        return request.updated_after.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise InvalidArgument("updated_after: not a time", field="updated_after") from None


def _job_name(name: str) -> tuple[str, str]:
    parts = parse_name("teams/{team}/jobs/{job}", name)
    return parts["team"], check_uid(parts["job"], "name")


def _sweep_message(sweep: Sweep, jobs: Sequence[Job]) -> sweep_pb2.Sweep:
    return wire.sweep_message(
        team=sweep.team,
        uid=sweep.uid,
        display_name=sweep.display_name,
        create_time=sweep.create_time,
        creator=sweep.creator,
        jobs=jobs,
    )


def _check_same(draft: Draft, digest: bytes) -> None:
    if digest != draft.request.digest:
        raise FailedPrecondition(
            f"request_id {draft.request.id!r} was used before for another request; choose a new one",
            reason=Reason.REQUEST_ID_REUSED,
        )


def _lacking(terms: Terms, *requests: CreateRequest, batch: str = "") -> list[tuple[str, Sequence[str]]]:
    """Of each request its id, or its place under that of the batch, and the secrets whose values it lacks."""
    found: list[tuple[str, Sequence[str]]] = []
    for place, request in enumerate(requests):
        task = terms.tasks.get(request.task)
        names = [] if task is None else submit.unknown(task, request)
        if names:
            found.append((request.request_id or (submit.placed(batch, place) if batch else ""), names))
    return found

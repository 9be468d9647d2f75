"""From a create request to new jobs: everything that is checked before anything is written."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import lru_cache

from cairn.scheduler.v1 import job_pb2, scheduler_pb2
from cairn_common.errors import FailedPrecondition, InvalidArgument, Reason
from cairn_common.ids import new_uid, parse_name
from cairn_common.once import check_request_id, digest
from cairn_scheduler import dependencies, environment, mounts, secrecy, wire
from cairn_scheduler.dependencies import Fate, Wish
from cairn_scheduler.model import Code, Dependency, Job, Spec, State, pool_of
from cairn_scheduler.places import Place, exceeds, reached
from cairn_scheduler.store import Request, Sweep
from cairn_scheduler.task import Task, invalid, parse, variables

FIRST_REASON = "NotEvaluated: the scheduler has not looked at it yet"
# What a fact may carry, less room for the attempts that come.
MOST_JOB_BYTES = 600_000
MOST_BATCH = 1000
MOST_SECRETS = secrecy.MOST_SECRETS
# All jobs of a sweep are written in one transaction, and answered in one message.
MOST_SWEEP_BYTES = 64 * 2**20
MOST_SWEEP_ANSWER = 2 * 2**20
_LONGEST_NAME = 200
_LONGEST_REQUEST_ID = 128

CreateRequest = scheduler_pb2.CreateJobRequest | scheduler_pb2.CreateSweepRequest
AgainRequest = scheduler_pb2.RerunJobRequest | scheduler_pb2.ResumeJobRequest


@dataclass(frozen=True, slots=True)
class Terms:
    """What a request is read with."""

    # Who asks.
    creator: str
    places: tuple[Place, ...]
    now: datetime
    # Values of the secrets that the request leaves open, where the team or who asks has them kept.
    stored: Mapping[str, str] = field(default_factory=dict, repr=False)
    # What was read already, by its text.
    tasks: Mapping[str, Task] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Draft:
    """What a request asks for, checked. Its jobs share creator, code and time."""

    team: str
    creator: str
    request: Request
    jobs: tuple[Job, ...]
    sweep: Sweep | None = None
    # What its jobs are to run after, as it was written.
    after: tuple[Wish, ...] = ()
    # Of each of the jobs, by name; None: an attempt asks for it.
    secrets: Mapping[str, str | None] = field(default_factory=dict, repr=False)
    # Of one job: how it is told and answered, once it is in.
    message: job_pb2.Job | None = field(default=None, repr=False, compare=False)


def team_of(parent: str) -> str:
    """The team in `teams/{team}`."""
    return parse_name("teams/{team}", parent)["team"]


def draft_job(message: scheduler_pb2.CreateJobRequest, terms: Terms) -> Draft:
    """One job. Raises InvalidArgument (TASK_INVALID, ...) or FailedPrecondition (CAPACITY_IMPOSSIBLE)."""
    task, secrets = _read(message, terms)
    if task.grid:
        raise invalid("cairn.sweep", "makes many jobs; submit it as a sweep (CreateSweep)")
    job = _job(message, task, task.spec, terms, hidden=secrets.values)
    told = checked_message(job)
    request = _request(message, task, secrets.values)
    return Draft(
        job.team, terms.creator, request, (job,), after=task.after, secrets=secrets.kept, message=told
    )


def draft_sweep(message: scheduler_pb2.CreateSweepRequest, terms: Terms) -> Draft:
    """One job for each point of the grid. Raises as `draft_job`."""
    task, secrets = _read(message, terms)
    if not task.grid:
        raise invalid("cairn.sweep", "is missing: a sweep needs `cairn: {sweep: {parameters: ...}}`")
    uid = "" if message.validate_only else new_uid()
    jobs = tuple(_job(message, task, spec, terms, sweep=uid, hidden=secrets.values) for spec in task.jobs())
    messages = [wire.job_message(job) for job in jobs]
    largest = max(one.ByteSize() for one in messages)
    if largest > MOST_JOB_BYTES:
        raise _too_large(largest)
    total = largest * len(jobs)
    answer = sum(wire.brief(one).ByteSize() for one in messages)
    if total > MOST_SWEEP_BYTES or answer > MOST_SWEEP_ANSWER:
        raise invalid(
            "cairn.sweep.parameters",
            f"{len(jobs):,} jobs of {largest:,} bytes each are too large together; commit your changes "
            "(the diff is kept with each job), put long texts into files of `workdir`, or use a smaller grid",
            reason=Reason.SWEEP_INVALID,
        )
    sweep = Sweep(uid, jobs[0].team, jobs[0].display_name, terms.creator, task.experiment, terms.now)
    request = _request(message, task, secrets.values)
    return Draft(jobs[0].team, terms.creator, request, jobs, sweep, after=task.after, secrets=secrets.kept)


def draft_batch(message: scheduler_pb2.BatchCreateJobsRequest, terms: Terms) -> list[Draft]:
    """One job for each request. Raises as `draft_job`, with the request's place in the metadata `index`."""
    if len(message.requests) > MOST_BATCH:
        raise InvalidArgument(
            f"requests: {len(message.requests):,} are too many; send at most {MOST_BATCH:,} at a time",
            reason=Reason.FIELD_INVALID,
            field="requests",
        )
    drafts = []
    before: dict[bytes, Draft] = {}
    for index, one in enumerate(message.requests):
        if one.parent not in ("", message.parent):
            raise InvalidArgument(
                f"requests[{index}].parent: {one.parent[:80]!r} is not the batch's {message.parent!r}",
                reason=Reason.FIELD_INVALID,
                field="requests.parent",
                index=index,
            )
        one.parent = message.parent
        try:
            drafts.append(_draft_beside(one, terms, before))
        except (InvalidArgument, FailedPrecondition) as error:
            raise type(error)(
                f"requests[{index}]: {error.message}", reason=error.reason, **error.metadata, index=index
            ) from None
    return _together(check_request_id(message.request_id), drafts)


def _draft_beside(message: scheduler_pb2.CreateJobRequest, terms: Terms, before: dict[bytes, Draft]) -> Draft:
    """As `draft_job`; of those that are alike but for their request_id only the first is read."""
    request_id, message.request_id = message.request_id, ""
    rest = message.SerializeToString(deterministic=True)
    message.request_id = request_id
    like = before.get(rest)
    # Secrets are settled and sealed for each job.
    if like is None or like.message is None or like.secrets or message.validate_only:
        made = before[rest] = draft_job(message, terms)
        return made
    job = replace(like.jobs[0], uid=new_uid())
    return replace(
        like, request=_plainly(message), jobs=(job,), message=wire.another_message(like.message, job)
    )


def _together(request_id: str, drafts: list[Draft]) -> list[Draft]:
    """Jobs without an id of their own have one by their place under that of the batch, and are all of its."""
    if not request_id:
        return drafts
    whole = hashlib.sha256(b"".join(draft.request.digest for draft in drafts)).digest()
    return [
        draft if draft.request.id else replace(draft, request=Request(placed(request_id, place), whole))
        for place, draft in enumerate(drafts)
    ]


def placed(request_id: str, place: int) -> str:
    """The id of a batch's job that has none of its own."""
    return f"{request_id}/{place}"


def after(draft: Draft, found: tuple[Dependency, ...], fate: Fate) -> Draft:
    """The draft, its jobs held where what they are to run after has not ended. Raises FailedPrecondition."""
    if fate.hopeless:
        raise FailedPrecondition(
            f"cairn.after: {fate.hopeless}; write `:any` behind it to run however it ended",
            reason=Reason.JOB_ENDED,
            path="cairn.after",
        )
    jobs = tuple(replace(job, after=found) for job in draft.jobs)
    if not fate.free:
        jobs = tuple(dependencies.waiting(job, fate.reason) for job in jobs)
    return replace(draft, jobs=jobs, message=None)


@lru_cache(maxsize=64)
def parsed(text: str, places: tuple[Place, ...]) -> Task:
    """The task in a text: many jobs of one caller have the same. Raises InvalidArgument."""
    here = reached(places, pool_of(""))
    return parse(text, skypilot=_skypilot(places), fits=lambda need: exceeds(need, here) is None)


def unknown(task: Task, message: CreateRequest) -> list[str]:
    """Secrets that the task declares, and whose values neither stand in it nor came with it."""
    return [name for name, value in task.secrets.items() if value is None and name not in message.secrets]


def _read(message: CreateRequest, terms: Terms) -> tuple[Task, secrecy.Settled]:
    """The task with all that came beside it, and its secrets' values."""
    task = terms.tasks.get(message.task) or parsed(message.task, terms.places)
    check_fit(task.spec, terms.places)
    has_code = bool(message.code.digest)
    environment.check_code(task.spec.environment, has_code=has_code)
    if task.repository and not has_code:
        raise invalid(
            "workdir.url", "was not fetched: `cairn run` does that; other callers send it as `code`"
        )
    spec = task.spec
    secrets = settled(spec, task.secrets, message, terms)
    brought = mounts.match(task.mounts, wire.mount_values(message.mounts))
    # Jobs of one text, with nothing beside it, share what was read.
    if secrets.kept or brought:
        task = replace(task, spec=replace(spec, secrets=tuple(secrets.kept), mounts=brought))
    return task, secrets


def settled(
    spec: Spec, declared: Mapping[str, str | None], message: CreateRequest | AgainRequest, terms: Terms
) -> secrecy.Settled:
    """The secrets of a job, by what its request brings and what is stored. Raises InvalidArgument."""
    given = variables(dict(message.secrets), "secrets", beside=spec.envs)
    known = {name: value for name, value in given.items() if value is not None}
    shown = (spec.task, spec.setup, spec.run, *spec.envs.values(), message.display_name)
    return secrecy.settle(declared, known, stored=terms.stored, shown=shown)


def _job(
    message: CreateRequest,
    task: Task,
    spec: Spec,
    terms: Terms,
    *,
    hidden: Collection[str],
    sweep: str = "",
) -> Job:
    return Job(
        uid="" if message.validate_only else new_uid(),
        team=team_of(message.parent),
        state=State.PENDING,
        revision=1,
        creator=terms.creator,
        create_time=terms.now,
        update_time=terms.now,
        spec=spec,
        display_name=display_name(message.display_name) or task.name,
        experiment=task.experiment or "default",
        sweep=sweep,
        code=masked(wire.code_value(message.code), hidden),
        priority=task.priority,
        project=task.project,
        priority_class=task.priority_class,
        flavors=task.flavors,
        reason=FIRST_REASON,
    )


def masked(code: Code, hidden: Collection[str]) -> Code:
    """The task file may be part of what was not committed."""
    return replace(code, git_diff=secrecy.mask(code.git_diff, hidden))


def check_fit(spec: Spec, places: Sequence[Place]) -> None:
    """Raises FailedPrecondition (CAPACITY_IMPOSSIBLE)."""
    told = exceeds(spec.need, reached(places, spec.pool))
    if told is not None:
        raise FailedPrecondition(
            f"the job {told}; it could never run here",
            reason=Reason.CAPACITY_IMPOSSIBLE,
            path="resources",
        )


def _skypilot(places: Sequence[Place]) -> bool:
    return any(place.name == pool_of("any") for place in places)


def display_name(text: str) -> str:
    if len(text) > _LONGEST_NAME or any(ord(character) < 32 for character in text):
        raise InvalidArgument(
            f"display_name: at most {_LONGEST_NAME} characters, and no control characters",
            reason=Reason.FIELD_INVALID,
            field="display_name",
        )
    return text


def _request(message: CreateRequest, task: Task, hidden: Collection[str]) -> Request:
    """What tells one request from another under the same id: all of it but `validate_only`, and but what is
    secret, which not even a digest shall help to guess."""
    if not task.spec.secrets and not hidden:
        return _plainly(message)
    plain = copy.deepcopy(message)
    plain.task = task.spec.task
    plain.secrets.clear()
    plain.secrets.update(dict.fromkeys(task.spec.secrets, ""))
    plain.code.git_diff = secrecy.mask(message.code.git_diff, hidden)
    return identified(plain)


def _plainly(message: CreateRequest) -> Request:
    """As `_request`, where nothing is secret."""
    # Digests are those of messages that have one, be it empty.
    message.code.SetInParent()
    return identified(message)


def identified(message: CreateRequest | AgainRequest) -> Request:
    """What tells this message, its secrets' values taken out, from others under its request_id. Raises
    InvalidArgument."""
    return Request(check_request_id(message.request_id, most=_LONGEST_REQUEST_ID), digest(message))


def checked_message(job: Job) -> job_pb2.Job:
    """The job on the wire. Raises InvalidArgument for one that no fact could carry."""
    message = wire.job_message(job)
    size = message.ByteSize()
    if size > MOST_JOB_BYTES:
        raise _too_large(size)
    return message


def _too_large(size: int) -> InvalidArgument:
    return InvalidArgument(
        f"the job has {size:,} bytes with its task, variables and uncommitted changes; the most is "
        f"{MOST_JOB_BYTES:,}: commit your changes, or put long texts into files of `workdir`",
        reason=Reason.FIELD_INVALID,
        field="code.git_diff",
    )

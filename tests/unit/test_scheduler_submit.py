"""From requests to jobs that are not written yet."""

from __future__ import annotations

import copy
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from cairn.scheduler.v1 import scheduler_pb2
from cairn_common.errors import InvalidArgument
from cairn_scheduler import submit, wire
from cairn_scheduler.model import Resources
from cairn_scheduler.places import Place
from cairn_scheduler.submit import Terms

TERMS = Terms("users/u", (Place("local", Resources(8000)),), datetime(2026, 1, 1, tzinfo=UTC))
Create = scheduler_pb2.CreateJobRequest


def batch(*requests: Create) -> scheduler_pb2.BatchCreateJobsRequest:
    return scheduler_pb2.BatchCreateJobsRequest(parent="teams/t", requests=requests)


def test_jobs_of_a_batch_are_those_that_single_requests_would_make() -> None:
    task, other = "run: exit 0", "run: exit 1\nsecrets: {KEY: hush-hush-hush}"
    requests = [
        Create(task=task, request_id="a"),
        Create(task=task, request_id="b"),
        Create(task=task, request_id="b", display_name="named"),
        Create(task=other, request_id="c"),
        Create(task=other, request_id="d"),
        Create(task=task),
        Create(task=other, request_id="e", secrets={"MORE": "value-of-another"}),
        Create(task=task, request_id="f"),
    ]
    alone = [copy.deepcopy(one) for one in requests]
    drafts = submit.draft_batch(batch(*requests), TERMS)
    for one, draft in zip(alone, drafts, strict=True):
        one.parent = "teams/t"
        expected = submit.draft_job(one, TERMS)
        (job,) = draft.jobs
        assert replace(draft, jobs=()) == replace(expected, jobs=())
        assert replace(job, uid="") == replace(expected.jobs[0], uid="")
        assert draft.message == wire.job_message(job)
    assert len({draft.jobs[0].uid for draft in drafts}) == len(requests)


def test_a_request_id_that_is_too_long_is_refused_also_beside_one_that_is_alike() -> None:
    requests = [Create(task="run: exit 0", request_id=name) for name in ("a", "x" * 129)]
    with pytest.raises(InvalidArgument, match=r"requests\[1\]: request_id"):
        submit.draft_batch(batch(*requests), TERMS)


def test_a_request_is_told_from_others_as_it_was_by_earlier_releases() -> None:
    draft = submit.draft_job(Create(parent="teams/t", task="run: exit 0", request_id="a"), TERMS)
    assert draft.request.digest.hex() == "ac9a92e90c0910d2cced56eb82f0719188eba5a38527c1a918dc630368851878"

"""Who did what: read by admins, page by page; and what was done at the neighbours, noted once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest_asyncio

from cairn.quota.v1 import audit_pb2, quota_pb2, team_pb2, token_pb2
from cairn.scheduler.v1 import events_pb2 as scheduler_events
from cairn.tracker.v1 import events_pb2 as tracker_events
from cairn_common.bus import connect
from cairn_common.errors import Reason
from cairn_common.ids import new_uid
from cairn_common.subjects import STREAMS, subject
from tests.harness.problem import problem
from tests.harness.quota import Quota, running


@pytest_asyncio.fixture
async def quota(database_url: Callable[[str], str], nats_url: str, tmp_path: Path) -> AsyncIterator[Quota]:
    async with running(postgres_url=database_url("quota"), nats_url=nats_url, folder=tmp_path) as service:
        yield service


async def changed(quota: Quota, count: int) -> str:
    """A team that was changed so often."""
    team = await quota.team()
    teams = await quota.teams()
    for number in range(count):
        named = team_pb2.Team(name=f"teams/{team}", display_name=f"name {number}")
        await teams.UpdateTeam(quota_pb2.UpdateTeamRequest(team=named))
    return team


async def test_a_teams_admins_read_it_page_by_page(quota: Quota) -> None:
    team = await changed(quota, 5)
    admin = await quota.member(team, token_pb2.ROLE_ADMIN)
    audit = await quota.audit(admin)
    asked = audit_pb2.ListAuditEntriesRequest(parent=f"teams/{team}", page_size=4)
    first = await audit.ListAuditEntries(asked)
    asked.page_token = first.next_page_token
    second = await audit.ListAuditEntries(asked)
    assert second.next_page_token == ""
    entries = [*first.entries, *second.entries]
    assert [one.action for one in entries] == ["team.updated"] * 5 + ["team.created"]
    assert {(one.actor, one.team, one.resource) for one in entries} == {
        ("users/admin", team, f"teams/{team}")
    }
    assert entries[0].detail["display_name"] == "name 4"
    assert all(one.token_uid and one.request_id and one.peer for one in entries)
    since = audit_pb2.ListAuditEntriesRequest(
        parent=f"teams/{team}", start_time=entries[2].time, action="team.up"
    )
    assert len((await audit.ListAuditEntries(since)).entries) == 3
    nobody = audit_pb2.ListAuditEntriesRequest(parent=f"teams/{team}", actor="users/nobody")
    assert not (await audit.ListAuditEntries(nobody)).entries
    foreign = audit_pb2.ListAuditEntriesRequest(
        parent=f"teams/{team}", page_token=first.next_page_token, actor="users/x"
    )
    assert (await problem(audit.ListAuditEntries(foreign))).reason is Reason.PAGE_TOKEN_INVALID


async def test_nobody_else_does(quota: Quota) -> None:
    team = await quota.team()
    asked = audit_pb2.ListAuditEntriesRequest(parent=f"teams/{team}")
    everything = audit_pb2.ListAuditEntriesRequest(parent="teams/-")
    member = await quota.audit(await quota.member(team, token_pb2.ROLE_MEMBER))
    owner = await quota.audit(await quota.member(team, token_pb2.ROLE_OWNER))
    stranger = await quota.audit(await quota.member(await quota.team(), token_pb2.ROLE_OWNER))
    assert (await problem(member.ListAuditEntries(asked))).reason is Reason.ROLE_TOO_LOW
    assert (await problem(stranger.ListAuditEntries(asked))).reason is Reason.TEAM_NOT_FOUND
    assert (await problem(owner.ListAuditEntries(everything))).reason is Reason.ROLE_TOO_LOW
    assert (await (await quota.audit()).ListAuditEntries(everything)).entries


async def test_what_people_did_at_the_neighbours_is_noted_once(quota: Quota, nats_url: str) -> None:
    team, job, run = await quota.team(), new_uid(), new_uid()
    submitted = scheduler_events.SchedulerEvent(id=new_uid(), actor="users/ada")
    submitted.time.GetCurrentTime()
    submitted.job_submitted.job.name = f"teams/{team}/jobs/{job}"
    launched = scheduler_events.SchedulerEvent(id=new_uid(), actor="services/scheduler")
    launched.time.GetCurrentTime()
    launched.job_stopping.job.name = f"teams/{team}/jobs/{job}"
    renamed = tracker_events.TrackerEvent(id=new_uid(), actor="users/ada")
    renamed.time.GetCurrentTime()
    renamed.run_updated.run.name = f"teams/{team}/runs/{run}"
    tagged = tracker_events.TrackerEvent(id=new_uid(), actor="users/ada")
    tagged.time.GetCurrentTime()
    tagged.model_updated.name, tagged.model_updated.what = f"teams/{team}/models/digits", "version 2"
    told = [
        ("tracker", "model", "updated", "digits", tagged),
        ("scheduler", "job", "submitted", job, submitted),
        ("scheduler", "job", "stopping", job, launched),
        ("tracker", "run", "updated", run, renamed),
    ]
    async with connect(nats_url, name="neighbour") as bus:
        for name in ("SCHEDULER", "TRACKER"):
            await bus.ensure_stream(name, STREAMS[name])
        for twice in range(2):
            for publisher, resource, event, uid, fact in told:
                where = subject(publisher, resource, event, team, uid)
                await bus.publish(
                    where, fact.SerializeToString(), msg_id=f"{fact.id}-{twice}", address="192.0.2.7"
                )
    audit = await quota.audit()
    asked = audit_pb2.ListAuditEntriesRequest(parent=f"teams/{team}", actor="users/ada")
    async with asyncio.timeout(30):
        while len(found := (await audit.ListAuditEntries(asked)).entries) < 3:
            await asyncio.sleep(0.05)
    assert {(one.action, one.resource) for one in found} == {
        ("job.submitted", f"teams/{team}/jobs/{job}"),
        ("run.updated", f"teams/{team}/runs/{run}"),
        ("model.updated", f"teams/{team}/models/digits"),
    }
    (model,) = [one for one in found if one.action == "model.updated"]
    assert (model.detail["what"], model.address) == ("version 2", "192.0.2.7")
    everything = (
        await audit.ListAuditEntries(audit_pb2.ListAuditEntriesRequest(parent=f"teams/{team}"))
    ).entries
    assert [one.action for one in everything].count("job.submitted") == 1
    assert "job.stopping" not in {one.action for one in everything}

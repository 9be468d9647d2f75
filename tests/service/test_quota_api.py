"""Teams, limits and reservations over gRPC, on real servers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import grpc
import pytest
import pytest_asyncio
from grpc import aio

from cairn.quota.v1 import events_pb2, quota_pb2, quota_pb2_grpc, reservation_pb2, team_pb2, token_pb2
from cairn_common.bus import connect
from cairn_common.db import retry
from cairn_common.errors import DomainError, Reason, from_rpc_error
from cairn_common.ids import new_uid
from tests.harness.problem import problem
from tests.harness.quota import Quota, running

Reservation = reservation_pb2.Reservation


@pytest_asyncio.fixture
async def quota(database_url: Callable[[str], str], nats_url: str, tmp_path: Path) -> AsyncIterator[Quota]:
    async with running(postgres_url=database_url("quota"), nats_url=nats_url, folder=tmp_path) as service:
        yield service


def asking(
    team: str, *, job: str = "", number: int = 1, gpus: int = 0, jobs: int = 1
) -> quota_pb2.ReserveQuotaRequest:
    uid = job or new_uid()
    return quota_pb2.ReserveQuotaRequest(
        parent=f"teams/{team}",
        reservation_id=f"{uid}-{number}",
        job=f"teams/{team}/jobs/{uid}",
        amounts=team_pb2.Amounts(gpus=gpus, cpu_milli=1000, jobs=jobs),
    )


async def scheduler(quota: Quota) -> quota_pb2_grpc.QuotaServiceAsyncStub:
    return await quota.teams(quota.tokens.services["scheduler"])


async def held(quota: Quota, team: str) -> team_pb2.Amounts:
    teams = await quota.teams()
    amounts = (await teams.GetTeam(quota_pb2.GetTeamRequest(name=f"teams/{team}"))).held
    row = await quota.db.fetchrow(
        "SELECT coalesce(sum(gpus), 0) AS gpus, coalesce(sum(cpu_milli), 0) AS cpu_milli,"
        " coalesce(sum(jobs), 0) AS jobs FROM reservations WHERE team = $1 AND state = 1",
        team,
    )
    assert row is not None
    assert (amounts.gpus, amounts.cpu_milli, amounts.jobs) == (row["gpus"], row["cpu_milli"], row["jobs"])
    return amounts


async def test_500_parallel_reservations_never_hold_more_than_the_limit(quota: Quota) -> None:
    team = await quota.team(gpus=100, jobs=70)
    service = await scheduler(quota)
    requests = [asking(team, gpus=index % 3) for index in range(250)]

    async def reserve(request: quota_pb2.ReserveQuotaRequest) -> reservation_pb2.Reservation:
        try:
            return await service.ReserveQuota(request, timeout=60)
        except aio.AioRpcError as error:
            raise from_rpc_error(error) from None

    # Each is sent twice at once, and again where the database had no place for it: a retry must not hold
    # anything again.
    ends = await asyncio.gather(
        *(retry(lambda request=request: reserve(request)) for request in requests * 2),
        return_exceptions=True,
    )
    refused = [end for end in ends if not isinstance(end, Reservation)]
    assert {end.reason for end in refused if isinstance(end, DomainError)} == {Reason.QUOTA_EXCEEDED}
    assert all(isinstance(end, DomainError) for end in refused)
    made = {end.uid for end in ends if isinstance(end, Reservation)}
    now = await held(quota, team)
    assert now.jobs == len(made) == 70
    assert now.gpus <= 100

    names = [end.name for end in ends if isinstance(end, Reservation)]
    released = await asyncio.gather(
        *(service.ReleaseReservation(quota_pb2.ReleaseReservationRequest(name=name)) for name in names)
    )
    assert {one.state for one in released} == {Reservation.RELEASED}
    assert await held(quota, team) == team_pb2.Amounts()


async def test_what_does_not_fit_is_refused_with_limit_used_and_requested(quota: Quota) -> None:
    team = await quota.team(gpus=4)
    service = await scheduler(quota)
    await service.ReserveQuota(asking(team, gpus=3))
    error = await problem(service.ReserveQuota(asking(team, gpus=2)))
    assert error.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert error.reason is Reason.QUOTA_EXCEEDED
    told = {"team": team, "node": team, "resource": "gpus", "limit": "4", "used": "3", "requested": "2"}
    assert error.metadata == told
    assert "Asked for 2 GPUs" in error.message
    assert (await held(quota, team)).gpus == 3


async def test_a_reservations_id_is_good_once(quota: Quota) -> None:
    team = await quota.team()
    service = await scheduler(quota)
    request = asking(team, gpus=1)
    first = await service.ReserveQuota(request)
    assert await service.ReserveQuota(request) == first
    other = quota_pb2.ReserveQuotaRequest()
    other.CopyFrom(request)
    other.amounts.gpus = 2
    assert (await problem(service.ReserveQuota(other))).reason is Reason.REQUEST_ID_REUSED
    release = quota_pb2.ReleaseReservationRequest(name=first.name)
    ended = await service.ReleaseReservation(release)
    assert await service.ReleaseReservation(release) == ended
    error = await problem(service.ReserveQuota(request))
    assert (error.code, error.reason) == (grpc.StatusCode.FAILED_PRECONDITION, Reason.RESERVATION_ENDED)


@pytest.mark.parametrize(
    "change",
    [
        {"reservation_id": "x"},
        {"reservation_id": f"{new_uid()}-1"},
        {"parent": "teams/a/b"},
        {"parent": "teams/other"},
        {"amounts": team_pb2.Amounts(gpus=-1)},
        {"amounts": team_pb2.Amounts(gpus=2**62)},
        {"amounts": team_pb2.Amounts()},
    ],
)
async def test_a_request_that_makes_no_sense_is_refused(quota: Quota, change: dict[str, object]) -> None:
    good = asking("main")
    for field, value in change.items():
        if isinstance(value, str):
            setattr(good, field, value)
        else:
            getattr(good, field).CopyFrom(value)
    error = await problem((await scheduler(quota)).ReserveQuota(good))
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    for number in ("0", "-1", "01", "1.5", "", "x", "99999999999999999999"):
        request = asking("main")
        request.reservation_id = f"{request.job.rpartition('/')[2]}-{number}"
        assert (await problem((await scheduler(quota)).ReserveQuota(request))).code is (
            grpc.StatusCode.INVALID_ARGUMENT
        )


async def test_limits_change_under_an_etag(quota: Quota) -> None:
    team = await quota.team(gpus=4, jobs=2)
    teams = await quota.teams()
    before = await teams.GetTeam(quota_pb2.GetTeamRequest(name=f"teams/{team}"))
    change = quota_pb2.UpdateTeamRequest(
        team=team_pb2.Team(name=before.name, etag=before.etag, limits=team_pb2.Limits(gpus=8))
    )
    change.update_mask.paths.extend(["limits.gpus", "limits.jobs"])
    after = await teams.UpdateTeam(change)
    assert after.limits == team_pb2.Limits(gpus=8)
    error = await problem(teams.UpdateTeam(change))
    assert (error.code, error.reason) == (grpc.StatusCode.ABORTED, Reason.ETAG_MISMATCH)
    change.update_mask.paths.append("held")
    assert (await problem(teams.UpdateTeam(change))).reason is Reason.MASK_INVALID


async def test_a_team_is_made_once_and_belongs_to_its_maker(quota: Quota) -> None:
    teams = await quota.teams()
    request = quota_pb2.CreateTeamRequest(team_id=f"t{new_uid()}", request_id="one")
    made = await teams.CreateTeam(request)
    assert await teams.CreateTeam(request) == made
    request.request_id = "two"
    assert (await problem(teams.CreateTeam(request))).reason is Reason.TEAM_EXISTS
    request.team_id = "Not An Id"
    assert (await problem(teams.CreateTeam(request))).reason is Reason.ID_INVALID
    mine = await teams.ListTeams(quota_pb2.ListTeamsRequest(page_size=1000))
    assert {made.name, "teams/main"} <= {team.name for team in mine.teams}


async def test_listings_page_through_everything_once(quota: Quota) -> None:
    team = await quota.team()
    service = await scheduler(quota)
    made = [(await service.ReserveQuota(asking(team))).name for _ in range(5)]
    request = quota_pb2.ListReservationsRequest(parent=f"teams/{team}", page_size=2)
    seen: list[str] = []
    while True:
        page = await service.ListReservations(request)
        seen += [one.name for one in page.reservations]
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert seen == made[::-1]
    request.held_only = True
    assert (await problem(service.ListReservations(request))).reason is Reason.PAGE_TOKEN_INVALID
    await service.ReleaseReservation(quota_pb2.ReleaseReservationRequest(name=made[0]))
    everywhere = quota_pb2.ListReservationsRequest(parent="teams/-", held_only=True, page_size=1000)
    still = {one.name for one in (await service.ListReservations(everywhere)).reservations}
    assert still >= set(made[1:])
    assert made[0] not in still


async def test_every_change_is_told_as_a_fact(quota: Quota, nats_url: str) -> None:
    team = await quota.team(gpus=1)
    service = await scheduler(quota)
    reservation = await service.ReserveQuota(asking(team, gpus=1))
    await service.ReleaseReservation(quota_pb2.ReleaseReservationRequest(name=reservation.name))
    told = []
    async with asyncio.timeout(10), connect(nats_url, name="test") as bus:
        facts = bus.tail(stream="QUOTA", subjects=[f"cairn.v1.quota.*.*.{team}.*"], start_sequence=1)
        async for message in facts:
            event = events_pb2.QuotaEvent.FromString(message.data)
            told.append((message.subject.split(".")[3:5], event.WhichOneof("event"), event.actor))
            if len(told) == 3:
                await facts.aclose()
                break
    assert told == [
        (["team", "updated"], "team_updated", "users/admin"),
        (["reservation", "held"], "reservation_held", "services/scheduler"),
        (["reservation", "ended"], "reservation_ended", "services/scheduler"),
    ]


async def test_a_second_start_changes_nothing_and_the_first_tokens_stay_good(
    quota: Quota, database_url: Callable[[str], str], nats_url: str, tmp_path: Path
) -> None:
    async with running(
        postgres_url=database_url("quota"), nats_url=nats_url, folder=tmp_path / "2", tokens=quota.tokens
    ) as again:
        who = await (await again.identity()).GetCaller(quota_pb2.GetCallerRequest())
        assert (who.subject, who.scope) == ("users/admin", token_pb2.SCOPE_ADMIN)
        assert {one.team: one.role for one in who.memberships}["main"] == token_pb2.ROLE_OWNER
        main = await (await again.teams()).GetTeam(quota_pb2.GetTeamRequest(name="teams/main"))
        assert main.limits == team_pb2.Limits()

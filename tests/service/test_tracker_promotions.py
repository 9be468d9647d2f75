"""An alias such as `production` moves with the consent of two people, and its history says whose."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from cairn.tracker.v1 import (
    artifact_pb2,
    keeping_pb2,
    promotion_pb2,
    promotion_pb2_grpc,
    run_pb2,
    sharing_pb2,
    sharing_pb2_grpc,
    tracker_pb2,
)
from cairn_common.ids import new_uid
from tests.harness.parts import TEAM, commit, entry, refused, upload
from tests.harness.tracker import ADMIN, MEMBER, STRANGER, VIEWER, Client, Tracker

Promotion = promotion_pb2.Promotion
MODEL = artifact_pb2.ARTIFACT_KIND_MODEL


@pytest.fixture
async def client(tracker: Tracker) -> AsyncIterator[Client]:
    async with Client(tracker) as made:
        yield made
        await rule(made)


def calling(client: Client, token: str = MEMBER) -> promotion_pb2_grpc.PromotionServiceAsyncStub:
    return promotion_pb2_grpc.PromotionServiceStub(client.channel(token))


async def rule(client: Client, *aliases: str) -> None:
    rules = promotion_pb2.PromotionRules(approved_aliases=aliases)
    request = promotion_pb2.SetPromotionRulesRequest(parent=TEAM, rules=rules)
    assert (await calling(client, ADMIN).SetPromotionRules(request)) == rules


async def made(client: Client, name: str, **fields: object) -> artifact_pb2.ArtifactVersion:
    data = new_uid().encode()
    await upload(client, data)
    return await client.artifacts.CommitVersion(commit(name, entry("a", data), kind=MODEL, **fields))


def ask(version: artifact_pb2.ArtifactVersion, alias: str = "live") -> promotion_pb2.PromoteVersionRequest:
    return promotion_pb2.PromoteVersionRequest(name=version.name, alias=alias, note="it is good")


def approve(promotion: Promotion) -> promotion_pb2.ApprovePromotionRequest:
    return promotion_pb2.ApprovePromotionRequest(name=promotion.name, note="so it is")


async def aliases(client: Client, version: artifact_pb2.ArtifactVersion) -> list[str]:
    found = await client.artifacts.GetVersion(tracker_pb2.GetVersionRequest(name=version.name))
    return list(found.aliases)


async def test_what_needs_no_consent_moves_at_once_and_is_noted(client: Client) -> None:
    version = await made(client, f"net-{new_uid()}")
    moved = await calling(client).PromoteVersion(ask(version))
    assert (moved.state, moved.requester, moved.decider) == (Promotion.APPROVED, "users/ada", "users/ada")
    assert await aliases(client, version) == ["latest", "live"]
    assert await refused(calling(client).PromoteVersion(ask(version))) == "FAILED_PRECONDITION"
    assert await refused(calling(client).PromoteVersion(ask(version, "production"))) == "PERMISSION_DENIED"
    assert (await calling(client, ADMIN).PromoteVersion(ask(version, "production"))).state == 2


async def test_what_is_sent_again_moves_nothing_again(client: Client) -> None:
    version = await made(client, f"net-{new_uid()}")
    asked = ask(version)
    asked.request_id = new_uid()
    moved = await calling(client).PromoteVersion(asked)
    assert await calling(client).PromoteVersion(asked) == moved
    asked.alias = "elsewhere"
    assert await refused(calling(client).PromoteVersion(asked)) == "INVALID_ARGUMENT"
    run = await client.runs.CreateRun(tracker_pb2.CreateRunRequest(parent=TEAM, run=run_pb2.Run()))
    shares = sharing_pb2_grpc.ShareServiceStub(client.channel(MEMBER))
    share = sharing_pb2.CreateShareRequest(parent=TEAM, runs=[run.name], request_id=new_uid())
    links = await asyncio.gather(*(shares.CreateShare(share) for _ in range(20)))
    assert {link.secret for link in links} == {links[0].secret}
    uid = links[0].share.uid
    listed = (await shares.ListShares(sharing_pb2.ListSharesRequest(parent=TEAM))).shares
    assert [one.uid for one in listed if one.runs == [run.name]] == [uid]


async def test_a_second_person_consents_and_the_history_names_both(client: Client) -> None:
    name = f"net-{new_uid()}"
    version = await made(client, name)
    await rule(client, "live")
    wish = await calling(client).PromoteVersion(ask(version))
    assert (wish.state, wish.version, wish.note) == (Promotion.PENDING, version.name, "it is good")
    assert await calling(client).PromoteVersion(ask(version)) == wish, "the same is asked for once"
    assert await aliases(client, version) == ["latest"]
    # No other road leads there, for admins neither.
    _, admin = client.calling(ADMIN)
    straight = admin.SetAlias(tracker_pb2.SetAliasRequest(name=version.name, alias="live"))
    assert await refused(straight) == "FAILED_PRECONDITION"
    assert (
        await refused(admin.CommitVersion(commit(name, entry("e"), aliases=["live"])))
        == "FAILED_PRECONDITION"
    )
    for token, code in (
        (MEMBER, "PERMISSION_DENIED"),
        (VIEWER, "PERMISSION_DENIED"),
        (STRANGER, "NOT_FOUND"),
    ):
        assert await refused(calling(client, token).ApprovePromotion(approve(wish))) == code
    done = await calling(client, ADMIN).ApprovePromotion(approve(wish))
    assert (done.state, done.requester, done.decider, done.decision) == (
        Promotion.APPROVED, "users/ada", "users/ruth", "so it is",
    )  # fmt: skip
    assert await aliases(client, version) == ["latest", "live"]
    assert await refused(calling(client, ADMIN).ApprovePromotion(approve(wish))) == "FAILED_PRECONDITION"
    request = keeping_pb2.ListAliasMovesRequest(artifact=f"{TEAM}/artifacts/{name}")
    moves = (await client.keeping().ListAliasMoves(request)).moves
    assert [(move.version, move.actor, move.approver) for move in moves] == [(1, "users/ada", "users/ruth")]


async def test_nobody_consents_to_their_own_wish(client: Client) -> None:
    version = await made(client, f"net-{new_uid()}")
    await rule(client, "live")
    wish = await calling(client, ADMIN).PromoteVersion(ask(version))
    call = calling(client, ADMIN).ApprovePromotion(approve(wish))
    assert await refused(call) == "PERMISSION_DENIED"
    assert "users/ruth asked for it" in str(await call.details())
    no = promotion_pb2.RejectPromotionRequest(name=wish.name)
    assert await refused(calling(client).RejectPromotion(no)) == "PERMISSION_DENIED"
    assert (await calling(client, ADMIN).RejectPromotion(no)).state == Promotion.REJECTED
    assert await aliases(client, version) == ["latest"]
    gone = promotion_pb2.ApprovePromotionRequest(name=f"{TEAM}/promotions/{new_uid()}")
    assert await refused(calling(client, ADMIN).ApprovePromotion(gone)) == "NOT_FOUND"


async def test_a_wish_is_decided_once_however_many_decide(client: Client) -> None:
    version = await made(client, f"net-{new_uid()}")
    await rule(client, "live")
    wish = await calling(client).PromoteVersion(ask(version))
    admin = calling(client, ADMIN)
    no = promotion_pb2.RejectPromotionRequest(name=wish.name)
    calls = [
        admin.ApprovePromotion(approve(wish)) if odd % 2 else admin.RejectPromotion(no) for odd in range(10)
    ]
    codes = await asyncio.gather(*(refused(call) for call in calls))
    assert sorted(codes) == ["FAILED_PRECONDITION"] * 9 + ["OK"]
    listed = await calling(client, VIEWER).ListPromotions(promotion_pb2.ListPromotionsRequest(parent=TEAM))
    found = next(each for each in listed.promotions if each.uid == wish.uid)
    assert ("live" in await aliases(client, version)) == (found.state == Promotion.APPROVED)
    waiting = promotion_pb2.ListPromotionsRequest(parent=TEAM, state=Promotion.PENDING)
    assert not (await calling(client, VIEWER).ListPromotions(waiting)).promotions


async def test_of_20_writers_on_one_alias_it_is_always_one_and_the_history_is_complete(
    client: Client,
) -> None:
    name = f"net-{new_uid()}"
    versions = [await made(client, name) for _ in range(20)]
    seen: list[str] = []
    over = asyncio.Event()

    async def look() -> None:
        request = tracker_pb2.GetVersionRequest(name=f"{TEAM}/artifacts/{name}/versions/live")
        while not over.is_set():
            seen.append((await client.artifacts.GetVersion(request)).name)

    await calling(client).PromoteVersion(ask(versions[0]))
    looking = asyncio.create_task(look())
    stubs = [client.calling(MEMBER)[1] for _ in range(20)]
    for _ in range(3):
        await asyncio.gather(
            *(
                stub.SetAlias(tracker_pb2.SetAliasRequest(name=version.name, alias="live"))
                for stub, version in zip(stubs, versions, strict=True)
            )
        )
    over.set()
    await looking
    assert set(seen) <= {version.name for version in versions}
    request = keeping_pb2.ListAliasMovesRequest(artifact=f"{TEAM}/artifacts/{name}", page_size=200)
    moves = (await client.keeping().ListAliasMoves(request)).moves
    assert sorted(move.version for move in moves) == sorted([1, *(list(range(1, 21)) * 3)])
    holders = [version for version in versions if "live" in await aliases(client, version)]
    assert [int(version.version) for version in holders] == [moves[0].version], "the last one that moved it"

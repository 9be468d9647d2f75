"""The quota tree, plans and who may see them, over gRPC on real servers."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import asyncpg
import pytest
import pytest_asyncio
from grpc import aio

from cairn.quota.v1 import allocation_pb2, plan_pb2, quota_pb2, team_pb2, token_pb2, tree_pb2
from cairn_common.errors import Reason, from_rpc_error
from cairn_common.ids import new_uid
from tests.harness.problem import problem
from tests.harness.quota import Quota, running

Verdict = plan_pb2.Verdict
ApplyTree = allocation_pb2.ApplyTreeRequest
ApplyPlan = allocation_pb2.ApplyPlanRequest

TREE = """
currency: USD
flavors:
  h100: {accelerator: H100, factor: 3, price: 2.5}
  a100: {accelerator: A100}
tree:
  organisation: acme
  quotas: {'*': {gpu: {max: 20}}}
  children:
    - team: TEAM
      quotas: {h100: {gpu: {nominal: 4, borrow_limit: 1}}, a100: {gpu: 8}}
      children: [{project: seg, children: [{user: ada}]}, {user: bob, quotas: {'*': {gpu: {max: 1}}}}]
    - team: OTHER
      quotas: {h100: {gpu: {nominal: 2, lend_limit: 1}}}
budgets:
  b-TEAM: {node: TEAM, unit: gpu-hours, amount: 100, window: {calendar: month}}
  b-ada: {user: ada, unit: money, amount: 10, window: {rolling: 7d}}
"""


@pytest_asyncio.fixture
async def quota(database_url: Callable[[str], str], nats_url: str, tmp_path: Path) -> AsyncIterator[Quota]:
    async with running(postgres_url=database_url("quota"), nats_url=nats_url, folder=tmp_path) as service:
        yield service
        # The next test's tree is another one, in the same database.
        await service.db.execute("UPDATE reservations SET state = 3, end_time = now() WHERE state = 1")
        await service.db.execute("UPDATE limits SET held_gpus = 0, held_cpu_milli = 0, held_jobs = 0")


async def applied(quota: Quota, text: str = TREE) -> tuple[str, str]:
    """Two new teams in an applied tree."""
    team, other = f"t{new_uid()}", f"o{new_uid()}"
    admin = await quota.allocation()
    await admin.ApplyTree(ApplyTree(document=text.replace("TEAM", team).replace("OTHER", other)))
    return team, other


def hold(
    team: str, *, gpu: int = 1, flavor: str = "h100", job: str = "", n: int = 1, node: str = ""
) -> plan_pb2.Hold:
    return plan_pb2.Hold(
        name=f"teams/{team}/reservations/{job or new_uid()}-{n}",
        node=node,
        flavor=flavor,
        amounts={"gpu": gpu * 1000, "jobs": 1000},
    )


async def plan(
    quota: Quota,
    holds: Sequence[plan_pb2.Hold] = (),
    ends: Sequence[str] = (),
    *,
    expected: dict[str, int] | None = None,
    tree_version: int = 0,
    epoch: int = 0,
) -> allocation_pb2.ApplyPlanResponse:
    scheduler = await quota.allocation(quota.tokens.services["scheduler"])
    versions = [plan_pb2.NodeVersion(node=node, version=n) for node, n in (expected or {}).items()]
    return await scheduler.ApplyPlan(
        ApplyPlan(holds=holds, ends=ends, expected_versions=versions, tree_version=tree_version, epoch=epoch)
    )


async def used(quota: Quota, node: str, key: tuple[str, str] = ("h100", "gpu")) -> tuple[int, int, int]:
    tree = await (await quota.allocation()).GetTree(allocation_pb2.GetTreeRequest(use=True))
    uses = {(use.flavor, use.resource): use for one in tree.nodes if one.id == node for use in one.uses}
    return (uses[key].used, uses[key].borrowed, uses[key].lent) if key in uses else (0, 0, 0)


async def test_a_tree_is_applied_and_shown_as_it_rules(quota: Quota) -> None:
    team, other = await applied(quota)
    admin = await quota.allocation()
    tree = await admin.GetTree(allocation_pb2.GetTreeRequest(use=True, document=True))
    ids = {node.id: node for node in tree.nodes}
    assert ids[f"{team}/seg/ada"].user == "ada"
    assert ids[f"{team}/seg/ada"].team == team
    assert ids["main"].implied, "a team without a node of its own stands under the root"
    again = await admin.ApplyTree(ApplyTree(document=tree.document, validate_only=True))
    assert not again.changes, "what is exported is what was applied"
    budgets = {one.id: one for one in tree.budgets}
    balance = budgets[f"b-{team}"].balance
    assert (balance.granted, balance.available, balance.held) == (360_000_000, 360_000_000, 0)
    made = await (await quota.teams()).GetTeam(quota_pb2.GetTeamRequest(name=f"teams/{other}"))
    assert made.name == f"teams/{other}", "teams that the tree names are made"


async def test_a_team_that_is_not_there_yet_is_told_before_it_is_made(quota: Quota) -> None:
    admin, service = await quota.allocation(), await quota.allocation(quota.tokens.services["scheduler"])
    team = f"t{new_uid()}"
    text = f"tree: {{organisation: acme, children: [{{id: lab, team: {team}}}]}}"
    told = await admin.ApplyTree(ApplyTree(document=text, validate_only=True))
    assert told.new_teams == [f"teams/{team}"]
    unknown = (await quota.teams()).GetTeam(quota_pb2.GetTeamRequest(name=f"teams/{team}"))
    assert (await problem(unknown)).reason is Reason.TEAM_NOT_FOUND
    # A service owns no team: it hears so before and after alike, with the place.
    for dry in (True, False):
        error = await problem(service.ApplyTree(ApplyTree(document=text, validate_only=dry)))
        assert (error.reason, error.metadata["path"]) == (Reason.TEAM_NOT_FOUND, "nodes.lab.team")
    assert (await admin.ApplyTree(ApplyTree(document=text))).new_teams == [f"teams/{team}"]
    assert not (await admin.ApplyTree(ApplyTree(document=text))).new_teams


async def test_a_change_is_told_before_it_is_made_and_recorded_after(quota: Quota) -> None:
    team, other = await applied(quota)
    admin = await quota.allocation()
    before = await admin.GetTree(allocation_pb2.GetTreeRequest())
    text = TREE.replace("TEAM", team).replace("OTHER", other).replace("nominal: 4", "nominal: 6")
    told = await admin.ApplyTree(ApplyTree(document=text, validate_only=True))
    assert [(one.path, one.before, one.after) for one in told.changes] == [
        (f"nodes.{team}.quotas.h100.gpu.nominal", "4", "6")
    ]
    assert (await admin.GetTree(allocation_pb2.GetTreeRequest())).etag == before.etag
    done = await admin.ApplyTree(ApplyTree(document=text, etag=before.etag, request_id="r1"))
    assert (done.tree.version, done.tree.actor) == (before.version + 1, "users/admin")
    late = await problem(admin.ApplyTree(ApplyTree(document=text, etag=before.etag, request_id="r2")))
    assert late.reason is Reason.ETAG_MISMATCH
    again = await admin.ApplyTree(ApplyTree(document=text, etag=before.etag, request_id="r1"))
    assert again.tree.version == done.tree.version, "the same request is not done twice"
    nothing = await admin.ApplyTree(ApplyTree(document=text))
    assert nothing.tree.version == done.tree.version
    versions = (await admin.ListTreeVersions(allocation_pb2.ListTreeVersionsRequest(page_size=1))).versions
    assert [(one.version, one.actor, one.request_id) for one in versions] == [
        (done.tree.version, "users/admin", "r1")
    ]
    assert versions[0].changes[0].path == f"nodes.{team}.quotas.h100.gpu.nominal"


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("nodes: [{organisation: o}, {group: a, parent: b}, {group: b, parent: a}]", "tree.a.parent"),
        ("tree: {organisation: o, quotas: {'*': {gpu: {max: -1}}}}", "tree.quotas.*.gpu.max"),
        ("tree: {organisation: o, quotas: {h1: {gpu: 1}}}", "tree.o.quotas.h1.gpu"),
        (
            "tree: {organisation: o, quotas: {'*': {gpu: {max: 1}}}, children:"
            " [{group: a, quotas: {'*': {gpu: {max: 2}}}}]}",
            "tree.a.quotas.*.gpu.max",
        ),
        ("{tree: {organisation: o}, budgets: {b: {node: o, amount: 3}}}", "budgets.b.unit"),
        ("tree: {organisation: o, colour: red}", "tree.colour"),
        ("tree: [", ""),
    ],
)  # fmt: skip
async def test_what_cannot_rule_is_refused_and_nothing_changes(quota: Quota, text: str, path: str) -> None:
    admin = await quota.allocation()
    before = await admin.GetTree(allocation_pb2.GetTreeRequest())
    error = await problem(admin.ApplyTree(ApplyTree(document=text)))
    assert (error.reason, error.metadata["path"]) == (Reason.TREE_INVALID, path)
    assert (await admin.GetTree(allocation_pb2.GetTreeRequest())).etag == before.etag


async def test_a_message_with_a_cycle_is_refused_as_a_file_is(quota: Quota) -> None:
    admin = await quota.allocation()
    tree = await admin.GetTree(allocation_pb2.GetTreeRequest())
    tree.nodes.add(id="a", parent="b", kind=2)
    tree.nodes.add(id="b", parent="a", kind=2)
    error = await problem(admin.ApplyTree(ApplyTree(tree=tree)))
    assert error.reason is Reason.TREE_INVALID
    assert "cycle" in error.message


async def test_50_parallel_submits_against_room_for_one_admit_exactly_one(quota: Quota) -> None:
    team, _ = await applied(quota)
    first = await plan(quota, [hold(team, gpu=4)])
    assert [one.code for one in first.verdicts] == [Verdict.HELD]
    # One more may be borrowed.
    asked = await asyncio.gather(*(plan(quota, [hold(team, node=f"{team}/seg")]) for _ in range(25)))
    teams = await quota.teams(quota.tokens.services["scheduler"])

    async def reserve() -> int:
        uid = new_uid()
        request = quota_pb2.ReserveQuotaRequest(
            parent=f"teams/{team}",
            reservation_id=f"{uid}-1",
            job=f"teams/{team}/jobs/{uid}",
            amounts=team_pb2.Amounts(gpus=9, jobs=1),
        )
        try:
            await teams.ReserveQuota(request)
        except aio.AioRpcError as error:
            return int(from_rpc_error(error).reason is not Reason.QUOTA_EXCEEDED)
        return 1

    # The older call pays by the same rules: 9 fit into no flavor of the team's.
    assert sum(await asyncio.gather(*(reserve() for _ in range(25)))) == 0
    codes = Counter(answer.verdicts[0].code for answer in asked)
    assert codes == {Verdict.HELD: 1, Verdict.EXCEEDED: 24}
    assert await used(quota, team) == (5000, 1000, 0)


async def test_50_parallel_old_submits_against_room_for_one_admit_exactly_one(quota: Quota) -> None:
    team = await quota.team(gpus=3)
    service = await quota.teams(quota.tokens.services["scheduler"])

    async def reserve() -> int:
        uid = new_uid()
        request = quota_pb2.ReserveQuotaRequest(
            parent=f"teams/{team}",
            reservation_id=f"{uid}-1",
            job=f"teams/{team}/jobs/{uid}",
            amounts=team_pb2.Amounts(gpus=2, jobs=1),
        )
        try:
            await service.ReserveQuota(request)
        except aio.AioRpcError:
            return 0
        return 1

    assert sum(await asyncio.gather(*(reserve() for _ in range(50)))) == 1


async def test_a_plan_is_judged_item_by_item_and_is_idempotent(quota: Quota) -> None:
    team, _ = await applied(quota)
    good, large, unknown = hold(team, gpu=3), hold(team, gpu=3), hold("nobody")
    wrong = plan_pb2.Hold(name="teams/x/reservations/y", amounts={"gpu": 1})
    bob = hold(team, gpu=2, flavor="a100", node=f"{team}/bob")
    items = [good, large, unknown, wrong, bob]
    first = await plan(quota, items, [f"teams/{team}/reservations/{new_uid()}-1"])
    codes = [one.code for one in first.verdicts]
    assert codes == [
        Verdict.UNKNOWN, Verdict.HELD, Verdict.EXCEEDED, Verdict.UNKNOWN, Verdict.INVALID, Verdict.EXCEEDED,
    ]  # fmt: skip
    over = first.verdicts[2]
    assert (over.node, over.resource, over.limit, over.used, over.requested) == (
        team,
        "gpu",
        5000,
        3000,
        3000,
    )
    assert first.verdicts[5].node == f"{team}/bob"
    second = await plan(quota, items)
    assert [one.code for one in second.verdicts] == codes[1:]
    assert await used(quota, team) == (3000, 0, 0)
    # An end makes room for a hold of the same plan.
    third = await plan(quota, [hold(team, gpu=5)], [good.name])
    assert [one.code for one in third.verdicts] == [Verdict.ENDED, Verdict.HELD]
    fourth = await plan(quota, [good], [good.name])
    assert [one.code for one in fourth.verdicts] == [Verdict.ENDED, Verdict.USED_UP]
    other_amounts = plan_pb2.Hold(name=third.verdicts[1].name, flavor="h100", amounts={"gpu": 1000})
    assert (await plan(quota, [other_amounts])).verdicts[0].code == Verdict.INVALID


async def test_a_plan_made_on_old_numbers_is_stale_where_use_grew_since(quota: Quota) -> None:
    team, other = await applied(quota)
    first = await plan(quota, [hold(team)])
    known = {one.node: one.version for one in first.versions}
    assert set(known) == {team, "acme"}
    # What ends makes room, which makes no plan wrong.
    await plan(quota, [], [first.verdicts[0].name])
    mine = {team: known[team]}
    good = await plan(quota, [hold(team)], expected=mine, tree_version=first.tree_version)
    assert good.verdicts[0].code == Verdict.HELD
    late, elsewhere = hold(team, gpu=5), hold(other)
    answer = await plan(quota, [late, elsewhere], expected=mine)
    stale = answer.verdicts[0]
    assert (stale.code, stale.node, stale.limit, stale.used) == (Verdict.STALE, team, 5000, 1000)
    assert answer.verdicts[1].code == Verdict.HELD, "the other team's node was not named"
    text = TREE.replace("TEAM", team).replace("OTHER", other).replace("nominal: 4", "nominal: 5")
    await (await quota.allocation()).ApplyTree(ApplyTree(document=text))
    old_tree = await plan(quota, [hold(team)], tree_version=first.tree_version)
    assert old_tree.verdicts[0].code == Verdict.STALE
    assert old_tree.tree_version == first.tree_version + 1


async def test_a_scheduler_that_was_replaced_changes_nothing_any_more(quota: Quota) -> None:
    team, _ = await applied(quota)
    seen: int = await quota.db.fetchval("SELECT epoch FROM tree_state")
    await plan(quota, epoch=seen + 2)
    with pytest.raises(aio.AioRpcError) as caught:
        await plan(quota, [hold(team)], epoch=seen + 1)
    assert from_rpc_error(caught.value).reason is Reason.EPOCH_OLD
    assert await used(quota, team) == (0, 0, 0)


async def test_what_is_held_stays_held_under_a_smaller_tree(quota: Quota) -> None:
    team, other = await applied(quota)
    made = await plan(quota, [hold(team, gpu=4, node=f"{team}/seg/ada")])
    text = (
        TREE.replace("TEAM", team)
        .replace("OTHER", other)
        .replace("nominal: 4, borrow_limit: 1", "nominal: 1")
    )
    text = text.replace("{project: seg, children: [{user: ada}]}, ", "")
    await (await quota.allocation()).ApplyTree(ApplyTree(document=text))
    assert (await used(quota, team))[0] == 4000
    assert (await plan(quota, [hold(team)])).verdicts[0].code == Verdict.EXCEEDED
    await plan(quota, [], [made.verdicts[0].name])
    assert (await plan(quota, [hold(team)])).verdicts[0].code == Verdict.HELD


async def test_another_replica_sees_what_this_one_holds(
    quota: Quota, database_url: Callable[[str], str], nats_url: str, tmp_path: Path
) -> None:
    team, _ = await applied(quota)
    folder = tmp_path / "second"
    url = database_url("quota")
    async with running(postgres_url=url, nats_url=nats_url, folder=folder, tokens=quota.tokens) as second:
        answers = await asyncio.gather(
            *(plan(where, [hold(team)]) for _ in range(10) for where in (quota, second))
        )
    assert Counter(one.verdicts[0].code for one in answers) == {Verdict.HELD: 5, Verdict.EXCEEDED: 15}


async def test_others_see_their_own_part_of_the_tree_alone(quota: Quota) -> None:
    team, other = await applied(quota)
    viewer = await quota.allocation(await quota.member(team, token_pb2.ROLE_VIEWER))
    tree = await viewer.GetTree(allocation_pb2.GetTreeRequest(use=True))
    assert {node.id for node in tree.nodes} == {"acme", team, f"{team}/seg", f"{team}/seg/ada", f"{team}/bob"}
    assert {budget.id for budget in tree.budgets} == {f"b-{team}"}
    for call in (
        viewer.GetTree(allocation_pb2.GetTreeRequest(document=True)),
        viewer.ApplyTree(ApplyTree(document="tree: {organisation: o}")),
        viewer.ListTreeVersions(allocation_pb2.ListTreeVersionsRequest()),
        viewer.AdjustBudget(allocation_pb2.AdjustBudgetRequest(budget=f"b-{team}", amount=1)),
    ):
        assert (await problem(call)).reason is Reason.ROLE_TOO_LOW
    theirs = viewer.QueryUsage(allocation_pb2.QueryUsageRequest(parent=f"teams/{other}"))
    assert (await problem(theirs)).reason is Reason.TEAM_NOT_FOUND


async def test_a_teams_admin_edits_beneath_its_node_and_makes_no_quota(quota: Quota) -> None:
    team, other = await applied(quota)
    admin = await quota.allocation(await quota.member(team, token_pb2.ROLE_ADMIN))
    below = "children: [{project: det, quotas: {'*': {gpu: {max: 2}}}}, {user: ada}]"
    done = await admin.ApplyTree(ApplyTree(document=below, node=team))
    ids = {node.id for node in done.tree.nodes}
    assert {f"{team}/det", f"{team}/ada"} <= ids
    assert f"{team}/seg" not in ids
    assert (await plan(quota, [hold(team, gpu=3, node=f"{team}/det")])).verdicts[0].code == Verdict.EXCEEDED
    more = "children: [{project: det, quotas: {h100: {gpu: 1}}}]"
    error = await problem(admin.ApplyTree(ApplyTree(document=more, node=team)))
    assert error.reason is Reason.TREE_INVALID
    assert "would grow from 0 to 1" in error.message
    foreign = await problem(admin.ApplyTree(ApplyTree(document=below, node=other)))
    assert foreign.reason is Reason.NODE_NOT_FOUND


@pytest.mark.parametrize("table", ["ledger_entries", "tree_versions", "adjustments"])
async def test_nobody_rewrites_what_was_written(
    quota: Quota, table: str, database_url: Callable[[str], str], postgres: object, database: str
) -> None:
    await applied(quota)
    admin = await quota.allocation()
    tree = await admin.GetTree(allocation_pb2.GetTreeRequest())
    await admin.AdjustBudget(
        allocation_pb2.AdjustBudgetRequest(
            budget=tree.budgets[0].id, amount=5, reason="gift", request_id=new_uid()
        )
    )
    for statement in (f"UPDATE {table} SET actor = 'me'", f"DELETE FROM {table}", f"TRUNCATE {table}"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await quota.db.execute(statement)
    connection = await asyncpg.connect(postgres.admin_url(database))  # type: ignore[attr-defined]
    try:
        with pytest.raises(asyncpg.RaiseError, match="append-only"):
            await connection.execute(f"DELETE FROM quota.{table}")
    finally:
        await connection.close()


async def test_a_budget_is_adjusted_once_with_a_reason(quota: Quota) -> None:
    team, _ = await applied(quota)
    admin = await quota.allocation()
    request = allocation_pb2.AdjustBudgetRequest(
        budget=f"b-{team}", amount=1000, reason="deadline", request_id=new_uid()
    )
    first, second = await admin.AdjustBudget(request), await admin.AdjustBudget(request)
    assert first.balance.granted == second.balance.granted == 360_001_000
    listing = allocation_pb2.ListLedgerEntriesRequest(parent="teams/-", budget=f"b-{team}")
    entries = (await admin.ListLedgerEntries(listing)).entries
    assert [(one.actor, one.reason, one.amount) for one in entries if one.kind == 6] == [
        ("users/admin", "deadline", 1000)
    ]
    other = allocation_pb2.AdjustBudgetRequest(
        budget=f"b-{team}", amount=999, reason="deadline", request_id=request.request_id
    )
    assert (await problem(admin.AdjustBudget(other))).reason is Reason.REQUEST_ID_REUSED
    for changes in ({"reason": " "}, {"request_id": ""}, {"amount": 0}):
        wrong = allocation_pb2.AdjustBudgetRequest()
        wrong.CopyFrom(request)
        for name, value in changes.items():
            setattr(wrong, name, value)
        assert (await problem(admin.AdjustBudget(wrong))).reason is Reason.FIELD_MISSING
    request.amount, request.request_id = -360_001_001, new_uid()
    assert (await problem(admin.AdjustBudget(request))).reason is Reason.STATE_INVALID
    request.budget = "nothing"
    assert (await problem(admin.AdjustBudget(request))).reason is Reason.BUDGET_NOT_FOUND


async def test_the_tree_that_was_read_may_be_sent_back(quota: Quota) -> None:
    await applied(quota)
    admin = await quota.allocation()
    tree = await admin.GetTree(allocation_pb2.GetTreeRequest(use=True))
    done = await admin.ApplyTree(ApplyTree(tree=tree, etag=tree.etag))
    assert not done.changes
    assert isinstance(done.tree, tree_pb2.QuotaTree)

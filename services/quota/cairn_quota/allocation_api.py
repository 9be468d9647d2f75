"""AllocationService: the quota tree, who holds what of it, and the ledger."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace

import yaml

from cairn.quota.v1 import allocation_pb2, allocation_pb2_grpc, budget_pb2, ledger_pb2, plan_pb2, tree_pb2
from cairn_common import document
from cairn_common.auth import Access, Principal, Role, access, require
from cairn_common.clock import Clock
from cairn_common.errors import InvalidArgument, NotFound, PermissionDenied, Reason
from cairn_common.ids import parse_name
from cairn_common.once import check_request_id, digest
from cairn_common.paging import decode_token, encode_token, page_size
from cairn_common.rpc import caller
from cairn_quota import checks, plan_checks, tree_wire, treefile, wire
from cairn_quota.admission import State
from cairn_quota.authority import Authority
from cairn_quota.bootstrap import TEAM as FIRST_TEAM
from cairn_quota.budget import period
from cairn_quota.plain import plain
from cairn_quota.plan_store import PlanStore
from cairn_quota.tree import Calendar, Tree
from cairn_quota.tree_store import Order, Stored, TreeStore
from cairn_quota.usage_store import MOST_ROWS, Query, UsageStore
from cairn_quota.validity import TreeInvalid
from cairn_quota.visibility import budgets_for, nodes_for, with_below

ALLOCATION = "cairn.quota.v1.AllocationService"
ANY = "-"

ALLOCATION_ACCESS: dict[str, Access] = {
    f"/{ALLOCATION}/GetTree": access(Role.VIEWER),
    f"/{ALLOCATION}/ApplyTree": access(Role.ADMIN),
    f"/{ALLOCATION}/ListTreeVersions": access(Role.ADMIN),
    f"/{ALLOCATION}/ApplyPlan": access(Role.SERVICE),
    f"/{ALLOCATION}/QueryUsage": access(Role.VIEWER),
    f"/{ALLOCATION}/ListLedgerEntries": access(Role.VIEWER),
    f"/{ALLOCATION}/AdjustBudget": access(Role.ADMIN),
}


@dataclass(frozen=True)
class AllocationApi(allocation_pb2_grpc.AllocationServiceServicer):
    """AllocationService over the stores."""

    authority: Authority
    trees: TreeStore
    plans: PlanStore
    usage: UsageStore
    clock: Clock

    async def GetTree(self, request: allocation_pb2.GetTreeRequest, context: object) -> tree_pb2.QuotaTree:
        """The tree as it rules, as far as the caller may see it."""
        who = caller()
        stored = await self.trees.current()
        message = await self._tree(who, stored, use=request.use)
        if request.document:
            if not _organises(who):
                raise _only_admins("see the whole tree file")
            message.document = await asyncio.to_thread(_written, stored.tree)
        return message

    async def _tree(self, who: Principal, stored: Stored, *, use: bool) -> tree_pb2.QuotaTree:
        now = self.clock.now()
        async with self.authority.reading() as state:
            every = _organises(who)
            nodes = state.tree.nodes if every else nodes_for(state.tree, who.roles)
            budgets = state.tree.budgets if every else budgets_for(state.tree, who)
            shown = replace(state.tree, nodes=tuple(nodes), budgets=())
            message = tree_wire.tree_message(shown)
            for node in message.nodes:
                node.version = state.node_version(node.id)
            if use:
                standings = state.shares.standings()
                for node in message.nodes:
                    node.uses.extend(tree_wire.use_message(one) for one in standings.get(node.id, ()))
            for budget in budgets:
                at = period(budget.window, now) if use else None
                balance = state.books.balances.get((budget.id, at.start)) if at else None
                message.budgets.append(tree_wire.budget_message(budget, balance))
        _stamp(message, stored)
        return message

    async def ApplyTree(
        self, request: allocation_pb2.ApplyTreeRequest, context: object
    ) -> allocation_pb2.ApplyTreeResponse:
        """Another tree, all or nothing."""
        who = caller()
        stored = await self.trees.current()
        try:
            tree, read = await self._asked(who, request, stored.tree)
            etag = request.etag or read
            order = Order(
                tree=tree,
                etag=etag or (str(stored.version) if request.node else ""),
                actor=who.subject,
                request_id=check_request_id(request.request_id),
                now=self.clock.now(),
                makes_teams=_organises(who) and who.subject.startswith("users/"),
                digest=digest(request),
            )
            trees = self.trees
            outcome = await (trees.outcome(order) if request.validate_only else trees.apply(order))
        except TreeInvalid as error:
            raise InvalidArgument(str(error), reason=Reason.TREE_INVALID, path=error.path) from None
        message = tree_wire.tree_message(outcome.stored.tree)
        _stamp(message, outcome.stored)
        return allocation_pb2.ApplyTreeResponse(
            tree=message,
            changes=tree_wire.change_messages(outcome.different),
            new_teams=[f"teams/{team}" for team in outcome.new_teams],
        )

    async def _asked(
        self, who: Principal, request: allocation_pb2.ApplyTreeRequest, old: Tree
    ) -> tuple[Tree, str]:
        """The whole tree that is asked for, and the version that its file was read from.

        Raises TreeInvalid, or where the caller may not ask for it.
        """
        if not request.node and not _organises(who):
            raise _only_admins("change the quota tree")
        if request.node and not _may_edit(who, old, request.node):
            raise NotFound(
                f"There is no node {request.node[:80]!r} in the quota tree that you may edit.",
                reason=Reason.NODE_NOT_FOUND,
                node=request.node[:80],
            )
        if request.WhichOneof("source") is None:
            raise checks.invalid("document", "send a tree file, or a tree")
        content = None
        if request.HasField("document"):
            # A large file takes seconds to read; whoever has a token checked meanwhile must not wait.
            content = await asyncio.to_thread(document.read, request.document, document.TREE)
        if request.HasField("tree"):
            asked = tree_wire.tree_value(request.tree)
        elif request.node:
            asked = treefile.parse_below(content, node=request.node)
        else:
            asked = treefile.parse(content)
        if request.node:
            asked = with_below(old, request.node, asked, may_add=_organises(who))
        return asked, treefile.version(content)

    async def ListTreeVersions(
        self, request: allocation_pb2.ListTreeVersionsRequest, context: object
    ) -> allocation_pb2.ListTreeVersionsResponse:
        """Who changed the tree, when, and what."""
        if not _organises(caller()):
            raise _only_admins("see who changed the quota tree")
        size = page_size(request.page_size)
        found = await self.trees.versions(before=_number(request.page_token, "tree/versions"), size=size + 1)
        page = found[:size]
        return allocation_pb2.ListTreeVersionsResponse(
            versions=page,
            next_page_token=_token(page[-1].version, "tree/versions") if len(found) > size else "",
        )

    async def ApplyPlan(
        self, request: allocation_pb2.ApplyPlanRequest, context: object
    ) -> allocation_pb2.ApplyPlanResponse:
        """Ends and makes holds, each judged for itself."""
        plan, verdicts = plan_checks.plan(request, now=self.clock.now())
        applied = await self.plans.apply(plan, actor=caller().subject, now=self.clock.now())
        names = [*request.ends, *(hold.name for hold in request.holds)]
        judged = plan_checks.in_order(applied.verdicts, verdicts, len(names))
        return allocation_pb2.ApplyPlanResponse(
            verdicts=[tree_wire.verdict_message(one, name) for one, name in zip(judged, names, strict=True)],
            versions=[plan_pb2.NodeVersion(node=node, version=n) for node, n in applied.versions.items()],
            tree_version=applied.tree_version,
        )

    async def QueryUsage(
        self, request: allocation_pb2.QueryUsageRequest, context: object
    ) -> allocation_pb2.QueryUsageResponse:
        """Sums of usage."""
        who = caller()
        team = parse_name("teams/{team}", request.parent)["team"]
        if team == ANY:
            teams = None if _organises(who) else list(who.roles)
        else:
            _own_or_all(who, team)
            teams = [team]
        rows = await self.usage.sums(_query(request, teams))
        if len(rows) > MOST_ROWS:
            raise InvalidArgument(
                f"There would be more than {MOST_ROWS:,} rows: ask for a shorter time, or group by less.",
                reason=Reason.FIELD_INVALID,
                field="group_by",
            )
        stored = await self.trees.current()
        return allocation_pb2.QueryUsageResponse(
            rows=[
                ledger_pb2.UsageRow(
                    team=row.team,
                    user=f"users/{row.user}" if row.user else "",
                    project=row.project,
                    flavor=row.flavor,
                    period_start=wire.timestamp(row.period_start),
                    gpu_millis=row.gpu_millis,
                    cpu_millis=row.cpu_millis,
                    money_micros=row.money_micros,
                    jobs=row.jobs,
                )
                for row in rows
            ],
            currency=stored.tree.currency,
        )

    async def ListLedgerEntries(
        self, request: allocation_pb2.ListLedgerEntriesRequest, context: object
    ) -> allocation_pb2.ListLedgerEntriesResponse:
        """The ledger."""
        who = caller()
        team = parse_name("teams/{team}", request.parent)["team"]
        if team != ANY or not _organises(who):
            _own_or_all(who, team)
        scope = f"ledger/{team}/{request.budget}"
        size = page_size(request.page_size)
        found = await self.usage.entries(
            team=None if team == ANY else team,
            budget=request.budget,
            after=_number(request.page_token, scope) or 0,
            size=size + 1,
        )
        page = found[:size]
        return allocation_pb2.ListLedgerEntriesResponse(
            entries=[tree_wire.entry_message(seq, entry) for seq, entry in page],
            next_page_token=_token(page[-1][0], scope) if len(found) > size else "",
        )

    async def AdjustBudget(
        self, request: allocation_pb2.AdjustBudgetRequest, context: object
    ) -> budget_pb2.Budget:
        """More, or less, in a budget's period of now."""
        who, now = caller(), self.clock.now()
        if not _organises(who):
            raise _only_admins("adjust a budget")
        reason = checks.text(request.reason, "reason").strip()
        if not reason or not request.request_id or not request.amount:
            field = "reason" if not reason else "request_id" if not request.request_id else "amount"
            raise InvalidArgument(f"{field} is required", reason=Reason.FIELD_MISSING, field=field)
        state = await self.trees.adjust(
            request.budget,
            request.amount,
            reason=reason,
            request_id=check_request_id(request.request_id),
            actor=who.subject,
            now=now,
        )
        return _budget_now(state, request.budget, now=self.clock)


def _written(tree: Tree) -> str:
    return yaml.safe_dump(plain(tree), sort_keys=False, allow_unicode=True)


def _budget_now(state: State, name: str, *, now: Clock) -> budget_pb2.Budget:
    budget = next(one for one in state.tree.budgets if one.id == name)
    at = period(budget.window, now.now())
    return tree_wire.budget_message(budget, state.books.balances.get((name, at.start)) if at else None)


def _query(request: allocation_pb2.QueryUsageRequest, teams: list[str] | None) -> Query:
    dimensions = {int(one) for one in request.group_by} - {0}
    names = {1: "team", 2: "user", 3: "project", 4: "flavor"}
    unknown = dimensions - set(names)
    if unknown or request.period not in (0, *Calendar):
        raise checks.invalid("period" if not unknown else "group_by", "is not one of those that there are")
    timezone = request.timezone or "UTC"
    plan_checks.timezone(timezone)
    return Query(
        teams=teams,
        group_by=frozenset(names[one] for one in dimensions),
        period=Calendar(request.period) if request.period else None,
        timezone=timezone,
        start=checks.time(request.start_time, "start_time") if request.HasField("start_time") else None,
        end=checks.time(request.end_time, "end_time") if request.HasField("end_time") else None,
    )


def _organises(who: Principal) -> bool:
    """Whether the caller is an admin of the organisation, or one of Cairn's services."""
    return who.is_service or who.may(FIRST_TEAM, Role.ADMIN)


def _may_edit(who: Principal, tree: Tree, node: str) -> bool:
    if node not in tree.by_id:
        return False
    team = tree.team_of(node)
    return _organises(who) or (bool(team) and who.may(team, Role.ADMIN))


def _own_or_all(who: Principal, team: str) -> None:
    """Raises NotFound for a team that the caller is no member of, unless they organise all."""
    if not _organises(who):
        require(who, team, Role.VIEWER)


def _only_admins(what: str) -> PermissionDenied:
    return PermissionDenied(
        f"Only an admin of the team {FIRST_TEAM} may {what}.",
        reason=Reason.ROLE_TOO_LOW,
        team=FIRST_TEAM,
        needed="admin",
    )


def _stamp(message: tree_pb2.QuotaTree, stored: Stored) -> None:
    message.version, message.etag, message.actor = stored.version, str(stored.version), stored.actor
    if stored.time is not None:
        message.update_time.FromDatetime(stored.time)


def _number(token: str, scope: str) -> int | None:
    return decode_token(token, scope=scope, read=lambda at: int(str(at["after"]))) if token else None


def _token(after: int, scope: str) -> str:
    return encode_token({"after": after}, scope=scope)

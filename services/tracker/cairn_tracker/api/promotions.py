"""PromotionService."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from grpc import aio

from cairn.tracker.v1 import promotion_pb2, promotion_pb2_grpc
from cairn_common.auth import Access, Role, access, require
from cairn_common.clock import Clock
from cairn_common.db import Database
from cairn_common.ids import parse_name
from cairn_common.once import Once
from cairn_common.paging import decode_token, encode_token, page_size
from cairn_common.rpc import caller
from cairn_tracker.api.keeping import require_for_aliases, version_of
from cairn_tracker.api.names import team_of
from cairn_tracker.artifacts import Artifacts
from cairn_tracker.promotions import Promotions, message
from cairn_tracker.store import promotions as store

NAME: Final = "cairn.tracker.v1.PromotionService"
ACCESS: Mapping[str, Access] = {
    f"/{NAME}/PromoteVersion": access(Role.MEMBER),
    f"/{NAME}/ApprovePromotion": access(Role.ADMIN),
    f"/{NAME}/RejectPromotion": access(Role.MEMBER),
    f"/{NAME}/ListPromotions": access(Role.VIEWER),
    f"/{NAME}/GetPromotionRules": access(Role.VIEWER),
    f"/{NAME}/SetPromotionRules": access(Role.ADMIN),
}

Context = aio.ServicerContext[Any, Any]


class PromotionApi(promotion_pb2_grpc.PromotionServiceServicer):
    """Aliases that move with consent."""

    def __init__(self, *, db: Database, artifacts: Artifacts, promotions: Promotions, clock: Clock) -> None:
        self._db = db
        self._artifacts = artifacts
        self._promotions = promotions
        self._once = Once(db, clock)

    async def PromoteVersion(
        self, request: promotion_pb2.PromoteVersionRequest, context: Context
    ) -> promotion_pb2.Promotion:
        """Moves an alias, or asks for it."""
        who = caller()
        found = await version_of(self._artifacts, who, request.name, Role.MEMBER)
        approval = request.alias in await store.approved_aliases(self._db, found.team)
        if not approval:
            await require_for_aliases(self._db, who, found.team, [request.alias])

        async def ask() -> promotion_pb2.Promotion:
            made = await self._promotions.ask(
                found, request.alias, actor=who.subject, note=request.note, approval=approval
            )
            return message(made)

        return await self._once(request, promotion_pb2.Promotion, ask)

    async def ApprovePromotion(
        self, request: promotion_pb2.ApprovePromotionRequest, context: Context
    ) -> promotion_pb2.Promotion:
        """A second person consents, and the alias moves."""
        team, uid = _named(request.name)
        require(caller(), team, Role.ADMIN)
        return message(await self._promotions.approve(team, uid, decider=caller().subject, note=request.note))

    async def RejectPromotion(
        self, request: promotion_pb2.RejectPromotionRequest, context: Context
    ) -> promotion_pb2.Promotion:
        """It is not to be."""
        who = caller()
        team, uid = _named(request.name)
        require(who, team, Role.MEMBER)
        if (await self._promotions.get(team, uid)).requester != who.subject:
            require(who, team, Role.ADMIN)
        return message(await self._promotions.reject(team, uid, decider=who.subject, note=request.note))

    async def ListPromotions(
        self, request: promotion_pb2.ListPromotionsRequest, context: Context
    ) -> promotion_pb2.ListPromotionsResponse:
        """A team's promotions, newest first."""
        team = team_of(caller(), request.parent, Role.VIEWER)
        scope = f"promotions/{team}/{request.state}"
        size = page_size(request.page_size)
        token = request.page_token
        before = decode_token(token, scope=scope, read=lambda at: int(at["seq"])) if token else None
        found = await store.listing(self._db, team, state=request.state, before=before, limit=size + 1)
        more = encode_token({"seq": found[size - 1].seq}, scope=scope) if len(found) > size else ""
        return promotion_pb2.ListPromotionsResponse(
            promotions=[message(each) for each in found[:size]], next_page_token=more
        )

    async def GetPromotionRules(
        self, request: promotion_pb2.GetPromotionRulesRequest, context: Context
    ) -> promotion_pb2.PromotionRules:
        """The team's rules."""
        return await self._rules(team_of(caller(), request.parent, Role.VIEWER))

    async def SetPromotionRules(
        self, request: promotion_pb2.SetPromotionRulesRequest, context: Context
    ) -> promotion_pb2.PromotionRules:
        """Replaces the team's rules."""
        team = team_of(caller(), request.parent, Role.ADMIN)
        await self._promotions.rule(team, request.rules.approved_aliases)
        return await self._rules(team)

    async def _rules(self, team: str) -> promotion_pb2.PromotionRules:
        return promotion_pb2.PromotionRules(approved_aliases=await store.approved_aliases(self._db, team))


def _named(name: str) -> tuple[str, str]:
    parts = parse_name("teams/{team}/promotions/{promotion}", name)
    return parts["team"], parts["promotion"]

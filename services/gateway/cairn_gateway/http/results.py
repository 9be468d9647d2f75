"""Routes of results: aliases by consent, how models do on a dataset, lineage."""

from __future__ import annotations

from cairn_gateway.http.artifacts import ARTIFACT, RUN, TEAM, VERSION
from cairn_gateway.http.route import Route

_VERSION = "/teams/{team}/artifacts/{artifact}/versions/{version}"
_PROMOTION = "teams/{team}/promotions/{promotion}"

ROUTES = (
    Route(
        method="POST",
        path=f"{_VERSION}:promote",
        rpc="PromotionService/PromoteVersion",
        summary="Move an alias to this version, or ask for it where a second person is to consent.",
        bind={"name": VERSION},
    ),
    Route(
        method="GET",
        path="/teams/{team}/promotions",
        rpc="PromotionService/ListPromotions",
        summary="What was and what is asked for, newest first.",
        bind={"parent": TEAM},
    ),
    Route(
        method="POST",
        path="/teams/{team}/promotions/{promotion}:approve",
        rpc="PromotionService/ApprovePromotion",
        summary="Consent to what somebody else asked for: the alias moves.",
        bind={"name": _PROMOTION},
    ),
    Route(
        method="POST",
        path="/teams/{team}/promotions/{promotion}:reject",
        rpc="PromotionService/RejectPromotion",
        summary="End what waits for consent.",
        bind={"name": _PROMOTION},
    ),
    Route(
        method="GET",
        path="/teams/{team}/promotion-rules",
        rpc="PromotionService/GetPromotionRules",
        summary="Aliases that move by consent alone.",
        bind={"parent": TEAM},
    ),
    Route(
        method="POST",
        path="/teams/{team}/promotion-rules",
        rpc="PromotionService/SetPromotionRules",
        summary="Replace which aliases move by consent alone.",
        bind={"parent": TEAM},
    ),
    Route(
        method="GET",
        path="/teams/{team}/artifacts/{artifact}/board",
        rpc="EvaluationService/GetLeaderboard",
        summary="How versions of models do on a dataset, best first, with what got worse.",
        bind={"dataset": ARTIFACT},
    ),
    Route(
        method="GET",
        path=f"{_VERSION}/board",
        rpc="EvaluationService/GetLeaderboard",
        summary="As the dataset's board, of one version of it.",
        bind={"dataset": VERSION},
        operation="GetVersionLeaderboard",
    ),
    Route(
        method="GET",
        path=f"{_VERSION}/trace",
        rpc="LineageService/TraceLineage",
        summary="What a version comes from and what came of it, over any number of steps.",
        bind={"name": VERSION},
    ),
    Route(
        method="GET",
        path="/teams/{team}/runs/{run}/trace",
        rpc="LineageService/TraceLineage",
        summary="What a run comes from and what came of it, over any number of steps.",
        bind={"name": RUN},
        operation="TraceRunLineage",
    ),
)

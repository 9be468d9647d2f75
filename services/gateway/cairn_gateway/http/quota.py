"""Routes of the quota tree, its money and the ledger."""

from __future__ import annotations

from cairn_gateway.http.route import Route

ROUTES = (
    Route(
        method="GET",
        path="/quota/tree",
        rpc="AllocationService/GetTree",
        summary="The quota tree as far as the caller may see it; with use=true what is used and lent.",
    ),
    Route(
        method="POST",
        path="/quota/tree",
        rpc="AllocationService/ApplyTree",
        summary="Apply a tree file (document), or say what it would change (validate_only).",
        etag="etag",
    ),
    Route(
        method="GET",
        path="/quota/tree/versions",
        rpc="AllocationService/ListTreeVersions",
        summary="Who changed the tree, when, and what.",
    ),
    Route(
        method="POST",
        path="/quota/budgets/{budget}:adjust",
        rpc="AllocationService/AdjustBudget",
        summary="Add to a budget's period of now, or take from it, with a reason.",
        bind={"budget": "{budget}"},
    ),
    Route(
        method="GET",
        path="/usage",
        rpc="AllocationService/QueryUsage",
        summary="GPU-hours and money of the caller's teams by team, user, project, flavor and period.",
        fixed={"parent": "teams/-"},
        operation="QueryUsageOfAll",
    ),
    Route(
        method="GET",
        path="/teams/{team}/usage/sums",
        rpc="AllocationService/QueryUsage",
        summary="GPU-hours and money of a team by user, project, flavor and period.",
        bind={"parent": "teams/{team}"},
    ),
    Route(
        method="GET",
        path="/teams/{team}/ledger",
        rpc="AllocationService/ListLedgerEntries",
        summary="The double-entry ledger of a team, oldest first.",
        bind={"parent": "teams/{team}"},
    ),
    Route(
        method="GET",
        path="/ledger",
        rpc="AllocationService/ListLedgerEntries",
        summary="The double-entry ledger of the organisation, for its admins.",
        fixed={"parent": "teams/-"},
        operation="ListLedgerEntriesOfAll",
    ),
)

"""Routes of links by which anybody reads certain runs."""

from __future__ import annotations

from cairn_gateway.http.route import Route

ROUTES = (
    Route(
        method="POST",
        path="/teams/{team}/shares",
        rpc="ShareService/CreateShare",
        summary="Make a link by which anybody reads these runs. Its secret is shown this once.",
        bind={"parent": "teams/{team}"},
        refs={"runs": "teams/{team}/runs/{}"},
    ),
    Route(
        method="GET",
        path="/teams/{team}/shares",
        rpc="ShareService/ListShares",
        summary="The team's links, without their secrets.",
        bind={"parent": "teams/{team}"},
    ),
    Route(
        method="POST",
        path="/teams/{team}/shares/{share}:revoke",
        rpc="ShareService/RevokeShare",
        summary="Make a link show nothing any more.",
        bind={"name": "teams/{team}/shares/{share}"},
    ),
)
# The link's secret is the bearer: it stands in no URL, so in no log.
SHARED = (
    Route(
        method="GET",
        path="/shared",
        rpc="ShareService/GetSharedRuns",
        summary="The runs of a link, whose secret is the bearer.",
        public=True,
        bearer="secret",
    ),
    Route(
        method="GET",
        path="/shared/series",
        rpc="ShareService/QuerySharedSeries",
        summary="Curves of the runs of a link, whose secret is the bearer.",
        public=True,
        bearer="secret",
    ),
)

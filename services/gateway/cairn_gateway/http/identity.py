"""Routes of the quota service: who is calling, tokens, teams and what they used."""

from __future__ import annotations

from cairn_gateway.http.route import Route

TEAM = "teams/{team}"

ROUTES = (
    Route(
        method="GET",
        path="/me",
        rpc="IdentityService/GetCaller",
        summary="Who the token says is calling, and in which teams.",
    ),
    Route(
        method="GET",
        path="/tokens",
        rpc="IdentityService/ListTokens",
        summary="The caller's tokens, without their secrets.",
    ),
    Route(
        method="POST",
        path="/tokens",
        rpc="IdentityService/CreateToken",
        summary="Make a token of at most the caller's own scope. The secret is shown this once.",
    ),
    Route(
        method="POST",
        path="/tokens/{token}:revoke",
        rpc="IdentityService/RevokeToken",
        summary="Revoke a token; felt everywhere within 5 seconds.",
        bind={"name": "tokens/{token}"},
    ),
    Route(
        method="GET",
        path="/teams",
        rpc="QuotaService/ListTeams",
        summary="The caller's teams.",
    ),
    Route(
        method="POST",
        path="/teams",
        rpc="QuotaService/CreateTeam",
        summary="Make a team; the caller becomes its owner.",
    ),
    Route(
        method="GET",
        path="/teams/{team}",
        rpc="QuotaService/GetTeam",
        summary="A team with its limits and what it holds now.",
        bind={"name": TEAM},
    ),
    Route(
        method="PATCH",
        path="/teams/{team}",
        rpc="QuotaService/UpdateTeam",
        summary="Change a team's limits or display_name; what the body has is what changes.",
        bind={"team.name": TEAM},
        resource="team",
        etag="team.etag",
    ),
    Route(
        method="GET",
        path="/teams/{team}/usage",
        rpc="QuotaService/GetUsage",
        summary="GPU-seconds and CPU-seconds of attempts that ended in a period.",
        bind={"name": TEAM},
    ),
    Route(
        method="GET",
        path="/teams/{team}/reservations",
        rpc="QuotaService/ListReservations",
        summary="What the team's jobs hold of its limits.",
        bind={"parent": TEAM},
    ),
)

"""Routes of secrets: of teams, and of users."""

from __future__ import annotations

from cairn_gateway.http.route import Route


def _routes(owner: str, operation: str, whose: str) -> tuple[Route, ...]:
    return (
        Route(
            method="GET",
            path=f"/{owner}/secrets",
            rpc="SecretService/ListSecrets",
            summary=f"{whose} secrets, without their values.",
            bind={"parent": owner},
            operation=f"List{operation}Secrets",
        ),
        Route(
            method="POST",
            path=f"/{owner}/secrets/{{variable}}:set",
            rpc="SecretService/SetSecret",
            summary=f"Keep a value for {whose.lower()} jobs, or replace it. It is never shown.",
            bind={"name": f"{owner}/secrets/{{variable}}"},
            operation=f"Set{operation}Secret",
        ),
        Route(
            method="POST",
            path=f"/{owner}/secrets/{{variable}}:delete",
            rpc="SecretService/DeleteSecret",
            summary="Give it to no attempt that begins later.",
            bind={"name": f"{owner}/secrets/{{variable}}"},
            operation=f"Delete{operation}Secret",
        ),
    )


ROUTES = (*_routes("teams/{team}", "Team", "The team's"), *_routes("users/{user}", "User", "The user's"))

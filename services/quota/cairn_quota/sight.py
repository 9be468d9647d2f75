"""Which people a caller can see, and where in the organisation a caller stands."""

from __future__ import annotations

from dataclasses import dataclass

from cairn_common.auth import Principal, Role, require
from cairn_common.errors import NotFound, PermissionDenied, Reason
from cairn_common.ids import parse_name
from cairn_common.paging import decode_token, encode_token
from cairn_common.rpc import caller
from cairn_quota.bootstrap import TEAM as FIRST_TEAM
from cairn_quota.people import User
from cairn_quota.team_store import team_not_found
from cairn_quota.user_store import UserStore, user_not_found


@dataclass(frozen=True, slots=True)
class Sight:
    """Who is to be seen by whom."""

    users: UserStore

    async def __call__(self, user: str, who: Principal) -> User:
        """The user with this id, where the caller can see them. Raises NotFound/USER_NOT_FOUND."""
        found = await self.users.user(user)
        subject = f"users/{user}"
        if found is not None and (
            who.is_service
            or who.subject == subject
            or who.may(FIRST_TEAM, Role.ADMIN)
            or await self.users.share_a_team(who.subject, subject)
        ):
            return found
        raise user_not_found(user)


def self_of(who: Principal) -> str:
    """The caller's own id. Raises NotFound for who is no user."""
    if not who.subject.startswith("users/"):
        raise NotFound("This token is no user's.", reason=Reason.USER_NOT_FOUND)
    return who.subject.removeprefix("users/")


def team_of(name: str, role: Role) -> str:
    """The team's id, where the caller has the role in it. Raises NotFound or PermissionDenied."""
    team = parse_name("teams/{team}", name)["team"]
    if caller().is_service:
        # Services act for nobody here.
        raise team_not_found(team)
    require(caller(), team, role)
    return team


def require_organisation(who: Principal, role: Role) -> None:
    """Holds that the caller has a role in the organisation's team. Raises PermissionDenied."""
    if not who.may(FIRST_TEAM, role):
        raise PermissionDenied(
            f"This is for people of role {role.name.lower()} in the team {FIRST_TEAM}.",
            reason=Reason.ROLE_TOO_LOW,
            team=FIRST_TEAM,
            needed=role.name.lower(),
        )


def after(token: str, *, scope: str) -> str:
    """What a page begins behind; empty for the first one. Raises InvalidArgument."""
    return decode_token(token, scope=scope, read=lambda at: str(at["after"])) if token else ""


def next_token(after: str, *, scope: str) -> str:
    """The token of the page behind `after`."""
    return encode_token({"after": after}, scope=scope)

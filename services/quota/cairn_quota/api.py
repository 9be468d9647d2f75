"""What each RPC of quota asks of its caller, and QuotaService: teams, limits, reservations, usage."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from grpc import aio

from cairn.quota.v1 import quota_pb2, quota_pb2_grpc, reservation_pb2, team_pb2
from cairn_common.auth import Access, Principal, Role, Scope, access, require
from cairn_common.clock import Clock
from cairn_common.errors import InvalidArgument, PermissionDenied, Reason
from cairn_common.ids import check_id, parse_name
from cairn_common.once import Once
from cairn_common.paging import decode_token, encode_token, page_size
from cairn_common.rpc import caller
from cairn_quota import checks, plan_checks, wire
from cairn_quota.bootstrap import TEAM as FIRST_TEAM
from cairn_quota.model import Role as TeamRole
from cairn_quota.store import Store
from cairn_quota.team_store import TeamStore, new_team, team_not_found

QUOTA = "cairn.quota.v1.QuotaService"
IDENTITY = "cairn.quota.v1.IdentityService"
ANY = "-"
"""In the place of a team's id: all teams."""

ACCESS: dict[str, Access] = {
    f"/{QUOTA}/GetTeam": access(Role.VIEWER),
    f"/{QUOTA}/ListTeams": access(Role.VIEWER),
    f"/{QUOTA}/CreateTeam": access(Role.NONE, scope=Scope.ADMIN),
    f"/{QUOTA}/UpdateTeam": access(Role.ADMIN),
    f"/{QUOTA}/ReserveQuota": access(Role.SERVICE),
    f"/{QUOTA}/ReleaseReservation": access(Role.SERVICE),
    f"/{QUOTA}/ListReservations": access(Role.VIEWER),
    f"/{QUOTA}/GetUsage": access(Role.VIEWER),
    f"/{IDENTITY}/CheckToken": access(Role.SERVICE),
    f"/{IDENTITY}/GetCaller": access(Role.NONE, run_token=True),
    # Never above the caller's own scope, which the handler holds.
    f"/{IDENTITY}/CreateToken": access(Role.NONE),
    f"/{IDENTITY}/BatchCreateTokens": access(Role.SERVICE),
    f"/{IDENTITY}/BatchRevokeTokens": access(Role.SERVICE),
    f"/{IDENTITY}/RenewToken": access(Role.SERVICE),
    f"/{IDENTITY}/RevokeToken": access(Role.NONE),
    f"/{IDENTITY}/ListTokens": access(Role.NONE),
}

Context = aio.ServicerContext[object, object]


@dataclass(frozen=True)
class QuotaApi(quota_pb2_grpc.QuotaServiceServicer):
    """QuotaService over the stores."""

    teams: TeamStore
    store: Store
    once: Once
    clock: Clock

    async def GetTeam(self, request: quota_pb2.GetTeamRequest, context: object) -> team_pb2.Team:
        """One team, with what it holds now."""
        team = _own_team(caller(), request.name)
        found = await self.teams.team(team)
        if found is None:
            raise team_not_found(team)
        return wire.team_message(found)

    async def ListTeams(
        self, request: quota_pb2.ListTeamsRequest, context: object
    ) -> quota_pb2.ListTeamsResponse:
        """The caller's teams; a service's are all."""
        who = caller()
        scope = f"teams/{who.subject}"
        size = page_size(request.page_size)
        found = await self.teams.teams(
            None if who.is_service else list(who.roles),
            after=_position(request.page_token, scope=scope) or "",
            size=size + 1,
        )
        page = found[:size]
        return quota_pb2.ListTeamsResponse(
            teams=[wire.team_message(team) for team in page],
            next_page_token=_next(page[-1].id, scope=scope) if len(found) > size else "",
        )

    async def CreateTeam(self, request: quota_pb2.CreateTeamRequest, context: object) -> team_pb2.Team:
        """A new team, owned by its maker."""
        who = caller()
        if not who.subject.startswith("users/"):
            raise PermissionDenied("Only a user can own a team.", reason=Reason.ROLE_TOO_LOW)
        # In a team of one's own one may run jobs, under limits of one's own: not for a viewer elsewhere.
        if not who.may(FIRST_TEAM, Role.ADMIN):
            raise PermissionDenied(
                f"Only an admin of the team {FIRST_TEAM} makes teams.",
                reason=Reason.ROLE_TOO_LOW,
                team=FIRST_TEAM,
                needed="admin",
            )
        return await self.once(request, team_pb2.Team, lambda: self._create_team(request))

    async def _create_team(self, request: quota_pb2.CreateTeamRequest) -> team_pb2.Team:
        team = new_team(
            id=check_id(request.team_id, "team_id"),
            display_name=checks.text(request.team.display_name, "team.display_name") or request.team_id,
            limits=checks.limits(request.team.limits),
            now=self.clock.now(),
        )
        made = await self.teams.create_team(
            team, creator=caller().subject, request_id=request.request_id, owner_role=TeamRole.OWNER
        )
        return wire.team_message(made)

    async def UpdateTeam(self, request: quota_pb2.UpdateTeamRequest, context: object) -> team_pb2.Team:
        """Another name or other limits. What is held already stays held under a lower limit."""
        team = _own_team(caller(), request.team.name, role=Role.ADMIN)
        name, limits = _changes(request)
        changed = await self.teams.update_team(
            team,
            etag=request.team.etag,
            display_name=name,
            limits=limits,
            actor=caller().subject,
            now=self.clock.now(),
        )
        return wire.team_message(changed)

    async def ReserveQuota(
        self, request: quota_pb2.ReserveQuotaRequest, context: object
    ) -> reservation_pb2.Reservation:
        """Holds amounts for one admission of a job."""
        asked = plan_checks.reservation(checks.hold(request), now=self.clock.now())
        return wire.reservation_message(await self.store.reserve(asked, actor=caller().subject))

    async def ReleaseReservation(
        self, request: quota_pb2.ReleaseReservationRequest, context: object
    ) -> reservation_pb2.Reservation:
        """Ends a hold."""
        name = parse_name("teams/{team}/reservations/{reservation}", request.name)
        ended = await self.store.release(
            name["team"], name["reservation"], actor=caller().subject, now=self.clock.now()
        )
        return wire.reservation_message(ended)

    async def ListReservations(
        self, request: quota_pb2.ListReservationsRequest, context: object
    ) -> quota_pb2.ListReservationsResponse:
        """A team's reservations, newest first; a service may ask for those of all teams."""
        team = _own_team(caller(), request.parent)
        scope = f"reservations/{team}/{request.held_only}"
        size = page_size(request.page_size)
        found = await self.store.reservations(
            None if team == ANY else team,
            held_only=request.held_only,
            before=_position(request.page_token, scope=scope),
            size=size + 1,
        )
        page = found[:size]
        return quota_pb2.ListReservationsResponse(
            reservations=[wire.reservation_message(one) for one in page],
            next_page_token=_next(page[-1].uid, scope=scope) if len(found) > size else "",
        )

    async def GetUsage(self, request: quota_pb2.GetUsageRequest, context: object) -> quota_pb2.Usage:
        """Sums of what ended in a period."""
        team = _own_team(caller(), request.name)
        if await self.teams.team(team) is None:
            raise team_not_found(team)
        usage = await self.store.usage(
            team,
            start=checks.time(request.start_time, "start_time") if request.HasField("start_time") else None,
            end=checks.time(request.end_time, "end_time") if request.HasField("end_time") else None,
        )
        return wire.usage_message(team, usage)


def _own_team(who: Principal, name: str, *, role: Role = Role.VIEWER) -> str:
    """The team's id, where the caller has the role in it. Raises NotFound or PermissionDenied."""
    team = parse_name("teams/{team}", name)["team"]
    require(who, team, role)
    return team


def _changes(request: quota_pb2.UpdateTeamRequest) -> tuple[str | None, dict[str, int | None]]:
    """The new name (None: none) and the limits to set, by what the mask names; no mask: what is there."""
    team = request.team
    limits = checks.limits(team.limits)
    every = {name: getattr(limits, name) for name in checks.LIMITS}
    paths = list(request.update_mask.paths) or _filled(team)
    name: str | None = None
    chosen: dict[str, int | None] = {}
    for path in paths:
        if path == "display_name":
            name = checks.text(team.display_name, "team.display_name")
        elif path == "limits":
            chosen |= every
        elif path.removeprefix("limits.") in every and path.startswith("limits."):
            chosen[path.removeprefix("limits.")] = every[path.removeprefix("limits.")]
        else:
            raise InvalidArgument(
                f"update_mask: {path[:80]!r} is not a field that can be changed; these are display_name,"
                " limits, limits.gpus, limits.cpu_milli and limits.jobs",
                reason=Reason.MASK_INVALID,
                path=path,
            )
    return name, chosen


def _filled(team: team_pb2.Team) -> Iterable[str]:
    if team.display_name:
        yield "display_name"
    limits = wire.limits_value(team.limits)
    yield from (f"limits.{name}" for name in checks.LIMITS if getattr(limits, name) is not None)


def _position(token: str, *, scope: str) -> str | None:
    return decode_token(token, scope=scope, read=lambda at: str(at["after"])) if token else None


def _next(after: str, *, scope: str) -> str:
    return encode_token({"after": after}, scope=scope)

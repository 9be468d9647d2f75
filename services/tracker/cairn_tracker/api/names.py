"""Names that callers send, checked against who they are."""

from __future__ import annotations

from collections.abc import Sequence

from cairn_common.auth import Principal, Role, require
from cairn_common.errors import InvalidArgument, NotFound, PermissionDenied, Reason
from cairn_common.ids import parse_name
from cairn_tracker.batch import RunKey


def team_of(caller: Principal, parent: str, role: Role) -> str:
    """The team of a parent `teams/{team}`, in which the caller has this role."""
    team = parse_name("teams/{team}", parent)["team"]
    require(caller, team, role)
    return team


def run_of(caller: Principal, name: str, role: Role) -> RunKey:
    """The run of a name, in whose team the caller has this role; a run's token only for itself.

    Another run's name is answered like one that does not exist.
    """
    parts = parse_name("teams/{team}/runs/{run}", name)
    key = RunKey(parts["team"], parts["run"])
    require(caller, key.team, role)
    if caller.is_run and caller.run_uid != key.uid:
        raise unknown_run(key)
    return key


def runs_of(caller: Principal, team: str, names: Sequence[str], *, most: int) -> list[str]:
    """Uids of runs of one team, each once, in the order given."""
    if not 1 <= len(names) <= most:
        raise InvalidArgument(
            f"runs: {len(names):,} were given; 1 to {most} can be asked for at once", field="runs"
        )
    keys = [run_of(caller, name, Role.VIEWER) for name in names]
    for key in keys:
        if key.team != team:
            raise unknown_run(key)
    return list(dict.fromkeys(key.uid for key in keys))


def own_run(caller: Principal, team: str, name: str) -> str:
    """The uid of the run that something is done for in a team (empty: for none): a run's token only for
    its own, and always for it."""
    if not name:
        return caller.run_uid
    parts = parse_name("teams/{team}/runs/{run}", name)
    if parts["team"] != team:
        raise unknown_run(RunKey(parts["team"], parts["run"]))
    if caller.is_run and caller.run_uid != parts["run"]:
        raise PermissionDenied(
            f"this token is for run {caller.run_uid} alone", reason=Reason.RUN_TOKEN_FOREIGN
        )
    return parts["run"]


def unknown_run(key: RunKey) -> NotFound:
    """The error for a run that is not there, or not the caller's to see."""
    return NotFound(f"there is no run {key.uid} in team {key.team}", reason=Reason.RUN_NOT_FOUND, run=key.uid)

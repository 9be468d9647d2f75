"""Who may come in: MLflow's clients bring a token as a bearer's, or as the password of HTTP Basic."""

from __future__ import annotations

import base64
import binascii
import re

from cairn_common.auth import Principal, Role
from cairn_common.errors import Reason, Unauthenticated
from cairn_gateway.http.door import bearer
from cairn_gateway.mlflow.errors import MlflowError, invalid, missing

WORKSPACE = "x-mlflow-workspace"
# The team of those who have several and name none.
USUAL_TEAM = "main"
_BASIC = re.compile(r"basic +([A-Za-z0-9+/=]{1,2048})", re.IGNORECASE)
_TEAM = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")


def token_of(given: list[str]) -> str:
    """The token of the Authorization header. Raises Unauthenticated."""
    match = _BASIC.fullmatch(given[0].strip()) if len(given) == 1 else None
    if match is None:
        return bearer(given)
    try:
        _, _, password = base64.b64decode(match[1], validate=True).decode("ascii").partition(":")
    except (binascii.Error, UnicodeDecodeError):
        password = ""
    if not password:
        raise Unauthenticated("send a token as the password", reason=Reason.TOKEN_MISSING)
    return password


def team_of(given: list[str], who: Principal) -> str:
    """The team that a request is about: the workspace that its header names, else the caller's own.

    Raises MlflowError for a team that is not the caller's as for one that does not exist.
    """
    named = [text.strip() for text in given if text.strip()]
    if len(named) > 1:
        raise invalid("X-MLFLOW-WORKSPACE stands twice; name one team")
    if named:
        if _TEAM.fullmatch(named[0]) is None or who.role(named[0]) is Role.NONE:
            raise missing(f"Workspace '{named[0][:80]}' not found")
        return named[0]
    if USUAL_TEAM in who.roles or who.is_service:
        return USUAL_TEAM
    if len(who.roles) == 1:
        return next(iter(who.roles))
    teams = ", ".join(sorted(who.roles)) or "none"
    raise MlflowError(
        "INVALID_PARAMETER_VALUE",
        f"name the team with the header X-MLFLOW-WORKSPACE (MLFLOW_WORKSPACE); yours are: {teams}",
    )

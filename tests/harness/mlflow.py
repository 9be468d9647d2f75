"""MLflow's REST API over a real tracker, as one caller sees it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

import httpx
import pytest

from cairn.quota.v1 import token_pb2
from cairn_common.ids import new_uid
from tests.harness.gateway import Neighbours, bearer, gateway, neighbours
from tests.harness.tracker import MEMBER, RUN, STRANGER, VIEWER, Tracker


@dataclass
class Rest:
    """MLflow's API as one caller sees it."""

    http: httpx.AsyncClient
    tracker: Tracker
    behind: Neighbours
    token: str = MEMBER

    async def ask(self, method: str, route: str, /, **given: Any) -> tuple[int, Any]:
        """Status and JSON."""
        named = {"params": given} if method == "GET" else {"json": given}
        url = f"/mlflow/api/2.0/mlflow/{route}"
        answer = await self.http.request(method, url, headers=bearer(self.token), **named)
        return answer.status_code, answer.json()

    async def get(self, route: str, /, **given: Any) -> Any:
        """What a GET answers."""
        status, told = await self.ask("GET", route, **given)
        assert status == 200, told
        return told

    async def post(self, route: str, /, **given: Any) -> Any:
        """What a POST answers."""
        status, told = await self.ask("POST", route, **given)
        assert status == 200, told
        return told

    async def refusal(self, route: str, /, *, method: str = "POST", **given: Any) -> tuple[str, str]:
        """The error code and message of a call that is refused."""
        status, told = await self.ask(method, route, **given)
        assert status >= 400
        return told["error_code"], told["message"]

    def as_run(self, uid: str) -> Rest:
        """As the job of a run sees it."""
        membership = token_pb2.Principal.Membership(team="main", role=token_pb2.ROLE_MEMBER)
        self.behind.tokens[RUN + uid] = token_pb2.Principal(
            subject=f"runs/{uid}", scope=token_pb2.SCOPE_RUN, memberships=[membership], run_uid=uid
        )
        return replace(self, token=RUN + uid)

    async def experiment(self) -> str:
        """The id of a new experiment."""
        made = await self.post("experiments/create", name=f"e-{new_uid()}")
        return str(made["experiment_id"])

    async def run(self, experiment: str | None = None, **given: Any) -> str:
        """The id of a new run."""
        given = {"experiment_id": experiment or await self.experiment(), **given}
        made = await self.post("runs/create", **given)
        return str(made["run"]["info"]["run_id"])


@pytest.fixture
async def rest(tracker: Tracker, nats_url: str) -> AsyncIterator[Rest]:
    async with neighbours() as behind:
        for token, team in ((MEMBER, "main"), (VIEWER, "main"), (STRANGER, "other")):
            behind.caller(token, team)
        async with gateway(nats_url, behind.address, tracker_address=tracker.address) as http:
            yield Rest(http, tracker, behind)

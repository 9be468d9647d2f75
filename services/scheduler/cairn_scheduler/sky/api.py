"""SkyPilot's API server over HTTP: the few calls that are needed, with the JSON that SkyPilot's own client
sends."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from cairn_scheduler.sky.errors import Away, Kind, SkyError, clean, told

# What the server is told about the version of its protocol that we speak.
API_VERSION = "62"
MOST_LAUNCHES = 4
_MOST_OTHERS = 8
_TIMEOUT = httpx.Timeout(30.0, connect=5.0)
# One look at a request waits at most this long, so that a lost connection is noticed.
_LOOK = httpx.Timeout(60.0, connect=5.0)
# The server reports the costs of so many days: of all that may be left, of what has just come up.
_COST_DAYS, _FRESH_DAYS = 30, 1
_OK = 200
_NOT_FOUND = 404
_REFUSED = (400, 403, 422)
# Of a cluster's events those that tell of its launch.
_STORY = "STATUS_CHANGE,LAUNCH_PROGRESS,DEBUG"
_ELSEWHERE = re.compile(r"is in workspace '([^']+)', but the active workspace is")
# SkyPilot's own words around a job's.
_NOISE = ("Job ID not provided", "├──", "└──", "Tailing logs")


@dataclass(frozen=True, slots=True)
class User:
    """Who asks, in SkyPilot's books. `uid`: 8 of [0-9a-f]."""

    uid: str
    name: str


@dataclass(frozen=True, slots=True)
class Listed:
    """A cluster that the server knows. `launched`: seconds since 1970; `cost`: so far, in US dollars."""

    name: str
    status: str
    launched: float | None
    cost: float | None


@asynccontextmanager
async def open_api(url: str, *, user: User) -> AsyncIterator[Api]:
    """The server at `url` for the block; nothing is sent yet."""
    headers = {"X-SkyPilot-API-Version": API_VERSION}
    limits = httpx.Limits(max_connections=MOST_LAUNCHES + _MOST_OTHERS + 4)
    # The server's address is the operator's; a proxy of the environment is not for it.
    async with httpx.AsyncClient(
        base_url=url.rstrip("/"), headers=headers, limits=limits, timeout=_TIMEOUT, trust_env=False
    ) as http:
        yield Api(http, user)


class Api:
    """See `open_api`. All raise SkyError for the server's refusals and Away where it cannot be reached."""

    def __init__(self, http: httpx.AsyncClient, user: User) -> None:
        self._http = http
        self._user = user
        self._others = asyncio.Semaphore(_MOST_OTHERS)

    async def launch(
        self, name: str, task: str, *, config: Mapping[str, object], user: User | None = None
    ) -> str:
        """Begins to bring a cluster up and to run the task there; the id of that request."""
        body = {"task": task, "cluster_name": name, "override_skypilot_config": config}
        return await self._post("/launch", body, user=user)

    async def down(self, name: str) -> None:
        """Takes a cluster away, whatever workspace it is in. Raises SkyError GONE where there is none."""
        async with self._others:
            try:
                await self.wait(await self._post("/down", {"cluster_name": name}))
            except SkyError as error:
                workspace = _ELSEWHERE.search(str(error))
                if workspace is None:
                    raise
                config = {"active_workspace": workspace.group(1)}
                body = {"cluster_name": name, "override_skypilot_config": config}
                await self.wait(await self._post("/down", body))

    async def cancel(self, request: str) -> None:
        """Stops work on a request; what it made stays."""
        async with self._others:
            await self.wait(await self._post("/api/cancel", {"request_ids": [request]}))

    async def clusters(self) -> dict[str, str]:
        """All clusters and their status, as the server remembers them; one call, however many."""
        return {str(one["name"]): str(one["status"]) for one in await self._status()}

    async def inventory(self) -> list[Listed]:
        """All clusters, each with its age and its cost."""
        found = await self._status()
        try:
            costs = await self.wait(await self._post("/cost_report", {"days": _COST_DAYS}))
        except SkyError:
            # A catalog that is missing must not hide a cluster.
            costs = []
        known = {str(one.get("name")): one.get("total_cost") for one in costs or [] if isinstance(one, dict)}
        return [
            Listed(str(one["name"]), str(one["status"]), one.get("launched_at"), known.get(str(one["name"])))
            for one in found
        ]

    async def prices(self) -> dict[str, int]:
        """What an hour of each cluster costs, in millionths of a US dollar; 0 where it is free. Without those
        that have cost nothing measurable yet for being too young."""
        found = await self.wait(await self._post("/cost_report", {"days": _FRESH_DAYS}))
        try:
            return {
                str(one["name"]): round(float(one["total_cost"] or 0) * 3_600_000_000 / seconds)
                for one in found or []
                if (seconds := float(one["duration"] or 0)) > 0
            }
        except (KeyError, TypeError, ValueError) as error:
            raise Away(f"an answer to /cost_report that is no account: {error!r}") from error

    async def _status(self) -> list[dict[str, Any]]:
        body = {
            "all_users": True, "include_credentials": False, "include_handle": False, "summary_response": True
        }  # fmt: skip
        found = await self.wait(await self._post("/status", body))
        if not isinstance(found, list):
            raise Away("an answer to /status that is no list")
        return found

    async def job_states(self, name: str) -> list[str]:
        """How SkyPilot sees the cluster's jobs, the newest first: more than one where a launch was made
        again. Takes seconds."""
        async with self._others:
            found = await self.wait(await self._post("/queue", {"cluster_name": name, "all_users": True}))
        return [str(one.get("status", "")) for one in found or [] if isinstance(one, dict)]

    async def story(self, name: str) -> list[tuple[float, str]]:
        """What happened to a cluster on its way up: seconds since 1970, and a line.

        Raises SkyError where it has nothing yet.
        """
        body = {"cluster_name": name, "event_type": _STORY, "include_timestamps": True}
        async with self._others:
            found = await self.wait(await self._post("/cluster_events", body))
        return [
            (float(one["transitioned_at"]), clean(str(one["reason"])))
            for one in found or []
            if isinstance(one, dict) and one.get("reason")
        ]

    async def last_words(self, name: str) -> list[str]:
        """The last lines of the cluster's job; empty where they cannot be had."""
        body = {**self._base(), "cluster_name": name, "job_id": None, "follow": False, "tail": 30}
        try:
            answer = await self._http.post("/logs", json=body)
        except httpx.HTTPError:
            return []
        lines = [clean(line) for line in answer.text.splitlines() if line.strip()]
        return [line for line in lines if not line.startswith(_NOISE)][-20:]

    async def workspaces(self) -> set[str]:
        """The names of those that there are."""
        async with self._others:
            found = await self.wait(await self._request("GET", "/workspaces"))
        return set(found or {})

    async def ask(self, path: str, body: Mapping[str, object] | None = None) -> Any:
        """The answer to a question, such as which nodes there are."""
        async with self._others:
            return await self.wait(await self._post(path, body or {}))

    async def asked(self, path: str, body: Mapping[str, object] | None = None) -> str:
        """What SkyPilot prints while it answers: what only people were meant to read. Raises as `wait`, then
        with all that was printed as the error's `log`."""
        async with self._others:
            request = await self._post(path, body or {})
            try:
                await self.wait(request)
            except SkyError as error:
                error.log = await self.printed(request)
                raise
            return await self.printed(request)

    async def printed(self, request: str) -> str:
        """What was printed for a request that has ended; empty where it cannot be had."""
        query = {"request_id": request, "format": "plain", "follow": "false"}
        try:
            return (await self._http.get("/api/stream", params=query)).text
        except httpx.HTTPError:
            return ""

    async def wait(self, request: str) -> Any:
        """The result of a request, as soon as there is one."""
        while True:
            try:
                answer = await self._http.get("/api/get", params={"request_id": request}, timeout=_LOOK)
            except httpx.ReadTimeout:
                continue
            except httpx.HTTPError as error:
                raise Away(repr(error)) from error
            if answer.status_code == _NOT_FOUND:
                raise SkyError(Kind.FORGOTTEN, "the API server does not know the request any more")
            return _result(answer)

    async def _post(self, path: str, body: Mapping[str, object], *, user: User | None = None) -> str:
        return await self._request("POST", path, {**self._base(user), **body})

    async def _request(self, method: str, path: str, body: Mapping[str, object] | None = None) -> str:
        try:
            answer = await self._http.request(method, path, json=body)
        except httpx.HTTPError as error:
            raise Away(repr(error)) from error
        if answer.status_code in _REFUSED:
            raise SkyError(Kind.REFUSED, clean(answer.text))
        request = answer.headers.get("X-SkyPilot-Request-ID")
        if answer.status_code != _OK or not request:
            raise Away(f"{path}: {answer.status_code} {clean(answer.text)}")
        return str(request)

    def _base(self, user: User | None = None) -> dict[str, object]:
        asking = user or self._user
        who = {"SKYPILOT_USER_ID": asking.uid, "SKYPILOT_USER": asking.name}
        return {"env_vars": who, "entrypoint": "cairn", "entrypoint_command": "cairn"}


def _result(answer: httpx.Response) -> Any:
    """Raises SkyError where the work failed, and Away for what is no answer."""
    try:
        content = answer.json()
        if answer.status_code == _OK:
            return json.loads(content["return_value"])
        error = content["detail"]["error"]
        error = json.loads(error) if isinstance(error, str) else error
        failure = told(str(error["type"]), str(error["message"]))
    except (ValueError, KeyError, TypeError) as error:
        raise Away(f"{answer.status_code}: {clean(answer.text)}") from error
    raise failure

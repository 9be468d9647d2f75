"""Cairn for people and scripts: plain dicts, as the HTTP API returns them.

client = cairn.Client()
for run in client.runs(experiment="digits"):
    print(run["display_name"], run["summary"].get("val.accuracy", {}).get("max"))
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from cairn import _events
from cairn._account_calls import AccountCalls
from cairn._code import Bundle
from cairn._config import Config, load_config
from cairn._history import MOST, History, Runs, collect
from cairn._http import Api, Event, Json, Query, segment
from cairn._ids import new_uid
from cairn._media_calls import MediaCalls
from cairn._result_calls import ResultCalls
from cairn._team_calls import BASE, bare
from cairn._transfer import Part, Progress, put_file


class NotConfigured(Exception):
    """No server's address is known: neither an argument, nor CAIRN_URL, nor ``cairn login``."""


class Client(ResultCalls, MediaCalls, AccountCalls):
    """One Cairn server, seen by one bearer, in one team.

    What is not given comes from CAIRN_URL, CAIRN_TOKEN, CAIRN_TEAM, then from what ``cairn login`` wrote.
    Ids may be whole names (``teams/main/jobs/01k...``) or bare ids. Methods raise `ApiError` where the server
    refuses and `Unreachable` where it does not answer. Threads may share a client.
    """

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        team: str | None = None,
        *,
        patience: float = 20.0,
    ) -> None:
        config = load_config()
        if url is not None and url.rstrip("/") != config.url.rstrip("/"):
            config = Config(url=url, team=config.team)  # another server's token is not sent there
        if not config.url:
            raise NotConfigured(
                "no server is known: start one by `cairn up`, or name one by `cairn login URL` or CAIRN_URL"
            )
        self.team = team or config.team
        self.api = Api(config.url, config.token if token is None else token, patience=patience)

    @property
    def url(self) -> str:
        """The server's address."""
        return self.api.url

    def token(self) -> str:
        """The bearer's token, for what is no HTTP request."""
        return self.api.token()

    def platform(self) -> Json:
        """Version, addresses and services."""
        return self.api.get(f"{BASE}/platform")

    def submit(
        self,
        task: str,
        *,
        code: Json | None = None,
        name: str = "",
        validate_only: bool = False,
        request_id: str | None = None,
        secrets: Mapping[str, str] | None = None,
        mounts: Sequence[Json] = (),
    ) -> Json:
        """Queues the job of a task file's text. ``code`` is from `upload_code`. The same ``request_id`` again
        gives the same job. ``secrets`` are the values of the task's; ``mounts`` name archives of what its
        ``file_mounts`` has on this machine: ``{"target", "digest", "size", "file"}``."""
        order = self._order(task, code, name, validate_only, request_id, secrets=secrets, mounts=mounts)
        return self.api.post(self._team("jobs"), order)

    def submit_sweep(
        self,
        task: str,
        *,
        code: Json | None = None,
        name: str = "",
        validate_only: bool = False,
        request_id: str | None = None,
        secrets: Mapping[str, str] | None = None,
        mounts: Sequence[Json] = (),
    ) -> Json:
        """Queues one job for each point of the task's ``cairn.sweep``, all or none; returns the sweep."""
        order = self._order(task, code, name, validate_only, request_id, secrets=secrets, mounts=mounts)
        return self.api.post(self._team("sweeps"), order)

    def upload_code(self, bundle: Bundle, *, progress: Progress | None = None) -> Json:
        """Sends a packed folder where the store lacks it; returns what `submit` takes."""
        put_file(self.api, self.team, bundle.path, Part(bundle.digest, bundle.size), progress=progress)
        return bundle.code()

    def jobs(
        self, *, states: Sequence[str] = (), experiment: str = "", sweep: str = "", limit: int | None = None
    ) -> Iterator[Json]:
        """Jobs, newest first."""
        query: Query = {
            "states": list(states),
            "experiment": experiment,
            "sweep": sweep,
            "page_size": _page(limit),
        }
        return self.api.pages(self._team("jobs"), "jobs", query, limit=limit)

    def job(self, job: str) -> Json:
        """A job with its attempts."""
        return self.api.get(self._team("jobs", job))

    def timeline(self, job: str) -> list[Json]:
        """What happened to a job, oldest first: kind, time, end_time, attempt, text, cause."""
        return list(self.api.get(self._team("jobs", job, "timeline")).get("moments", []))

    def cancel(self, job: str) -> Json:
        """Stops a job; it is CANCELLED once nothing of it runs any more."""
        return self.api.post(self._team("jobs", job) + ":cancel")

    def hold(self, job: str, *, reason: str = "", admin: bool = False) -> Json:
        """Keeps a job out of the queue until `release`; one that runs gives its place up first."""
        return self.api.post(self._team("jobs", job) + ":hold", {"reason": reason, "admin": admin})

    def release(self, job: str) -> Json:
        """Puts a held job back into the queue."""
        return self.api.post(self._team("jobs", job) + ":release")

    def preempt(self, job: str, *, reason: str = "") -> Json:
        """Takes a job's place (admins); it goes on later, in the same run, from its last checkpoint."""
        return self.api.post(self._team("jobs", job) + ":preempt", {"reason": reason})

    def rerun(
        self, job: str, *, envs: Mapping[str, str] | None = None, name: str = "",
        request_id: str | None = None, secrets: Mapping[str, str] | None = None,
    ) -> Json:  # fmt: skip
        """Queues a new job of what ``job`` ran, with the same inputs and some other variables; its secrets'
        values are needed once more."""
        body = {"envs": dict(envs or {}), "display_name": name, "secrets": dict(secrets or {})}
        order = {
            **{key: value for key, value in body.items() if value},
            "request_id": request_id or new_uid(),
        }
        return self.api.post(self._team("jobs", job) + ":rerun", order)

    def resume(
        self, job: str, checkpoint: str, *, envs: Mapping[str, str] | None = None, name: str = "",
        request_id: str | None = None, secrets: Mapping[str, str] | None = None,
    ) -> Json:  # fmt: skip
        """As `rerun`, from a checkpoint on: the name of a version, as `checkpoints` has it."""
        body = {"envs": dict(envs or {}), "display_name": name, "secrets": dict(secrets or {})}
        order = {
            **{key: value for key, value in body.items() if value},
            "request_id": request_id or new_uid(),
        }
        return self.api.post(self._team("jobs", job) + ":resume", {**order, "checkpoint": checkpoint})

    def sweep(self, sweep: str) -> Json:
        """A sweep with its jobs."""
        return self.api.get(self._team("sweeps", sweep))

    def pools(self) -> list[Json]:
        """Places to run, and how much of them is free."""
        return list(self.api.get(f"{BASE}/pools").get("pools", []))

    def infras(self, *, refresh: bool = False) -> Json:
        """Where jobs can run, with what is wrong there; ``complete`` is false while some are still asked."""
        return self.api.get(f"{BASE}/infras", {"refresh": "true" if refresh else None})

    def plan(
        self,
        task: str,
        *,
        code: Json | None = None,
        secrets: Mapping[str, str] | None = None,
        mounts: Sequence[Json] = (),
    ) -> Json:
        """Where the job (or sweep) of a task file's text would go, best first, and its price; nothing is
        stored. What `submit` would refuse is refused."""
        body: Json = {"task": task, "code": code, "secrets": dict(secrets or {}), "mounts": list(mounts)}
        given = {key: value for key, value in body.items() if value}
        return self.api.post(self._team("jobs") + ":plan", given)

    def explain(self, job: str) -> Json:
        """Why a job waits, and changes each of which would let it start now."""
        return self.api.get(self._team("jobs", job) + "/explanation")

    def what_if(self, *, lose_pool: str = "", tree: Json | None = None) -> Json:
        """Who would start and who would lose their place, were a pool lost, or this quota tree to rule: as
        `apply_quota_tree` returns it with ``validate_only``. For admins."""
        body = {"lose_pool": lose_pool, "tree": tree}
        return self.api.post(f"{BASE}/queue:whatif", {k: v for k, v in body.items() if v})

    def snapshot(self) -> str:
        """All that the scheduler decides on, as the text of a file. For admins."""
        return str(self.api.get(f"{BASE}/queue:snapshot").get("snapshot", ""))

    def orphans(self) -> list[Json]:
        """What exists at the places to run and belongs to no living attempt. For admins."""
        return list(self.api.get(f"{BASE}/orphans").get("orphans", []))

    def remove_orphans(self) -> list[Json]:
        """Begins to take those away, and returns them. For admins."""
        return list(self.api.post(f"{BASE}/orphans:remove", {}).get("orphans", []))

    def runs(
        self, *, states: Sequence[str] = (), experiment: str = "", sweep: str = "", filter: str = "",
        limit: int | None = None,
    ) -> Runs:  # fmt: skip
        """Runs, newest first; `.to_pandas()` makes a data frame of them. `filter` is an expression, such as
        `group = "night" and metrics.acc > 0.9`."""
        query: Query = {
            "states": list(states),
            "filter": filter or None,
            "experiment": experiment,
            "sweep": sweep,
            "page_size": _page(limit),
        }
        return Runs(self.api.pages(self._team("runs"), "runs", query, limit=limit))

    def run(self, run: str) -> Json:
        """A run with params, attempts and the summary of each metric."""
        return self.api.get(self._team("runs", run))

    def update_run(self, run: str, **fields: Any) -> Json:
        """Changes `display_name`, `tags`, `group` or `notes`, whichever are given; returns the run."""
        return self.api.patch(self._team("runs", run), fields)

    def experiments(self) -> Iterator[Json]:
        """The team's experiments."""
        return self.api.pages(self._team("experiments"), "experiments")

    def series(
        self,
        runs: Sequence[str],
        keys: Sequence[str] = (),
        *,
        max_buckets: int = 1000,
        start_step: int = 0,
        end_step: int = 0,
        count_unbounded: bool = False,
    ) -> list[Json]:
        """Metrics over steps, parallel arrays in buckets; no ``keys``: all. With ``count_unbounded`` each
        says how many of its values are NaN or infinite (``unbounded``)."""
        query: Query = {
            "run": [bare(run) for run in runs],
            "key": list(keys),
            "max_buckets": max_buckets,
            "start_step": start_step,
            "end_step": end_step,
            "count_unbounded": "true" if count_unbounded else None,
        }
        return list(self.api.get(self._team("series"), query).get("series", []))

    def tail(self, runs: Sequence[str], keys: Sequence[str] = (), *, cursor: str = "") -> Json:
        """What is new of metrics since a cursor: ``series`` (``steps``, ``times``, ``last``), ``changed``
        (what to ask `series` for anew) and the ``cursor`` to go on from. Take the first one, without a
        cursor, before `series`: what comes in between is then in both."""
        query: Query = {"run": [bare(run) for run in runs], "key": list(keys), "cursor": cursor or None}
        return self.api.get(self._team("series", "tail"), query)

    def history(self, run: str, keys: Sequence[str] = (), *, system: bool = False) -> History:
        """Every point of a run's metrics (no ``keys``: all; ``system``: also its use of the machine):
        rows, columns, or a data frame by `.to_pandas()`."""

        def ask(some: Sequence[str], start: int, end: int) -> list[Json]:
            return self.series([run], some, max_buckets=MOST, start_step=start, end_step=end)

        history = collect(ask, bare(run), keys)
        if system and not keys:
            names = [key for key in self.run(run).get("summary", {}) if key.startswith("system/")]
            history.extend(collect(ask, bare(run), names) if names else History())
        return history

    def compare(
        self,
        runs: Sequence[str],
        metrics: Sequence[str] = (),
        *,
        minimize: Sequence[str] = (),
        all_params: bool = False,
    ) -> Json:
        """Runs side by side: the params that differ, last and best values."""
        body = {
            "runs": list(runs),
            "metrics": list(metrics),
            "minimize": list(minimize),
            "all_params": all_params,
        }
        return self.api.post(f"{BASE}/teams/{segment(self.team)}/runs:compare", body)

    def logs(
        self,
        run: str,
        *,
        cursor: str = "",
        attempt: int = 0,
        rank: int | None = None,
        tail: int = 0,
        page_size: int = 1000,
        grep: str = "",
        since: float = 0.0,
        stream: str = "",
    ) -> Json:
        """A page of ``lines``, the ``cursor`` to go on from, and whether that was all (``complete``).

        Only lines in which the pattern ``grep`` (RE2) is found, from ``since`` (seconds since 1970) on, of
        one ``stream``: stdout, stderr, platform or launch.
        """
        query: Query = {
            "cursor": cursor or None,
            "attempt": attempt or None,
            "rank": rank,
            "tail": tail or None,
            "page_size": page_size,
            "grep": grep or None,
            "since_time": datetime.fromtimestamp(since, UTC).isoformat() if since else None,
            "stream": stream or None,
        }
        return self.api.get(self._team("runs", run, "logs"), query)

    def events(
        self,
        *,
        run: str = "",
        job: str = "",
        types: Sequence[str] = (),
        last_id: str = "",
        patience: float = 60.0,
        stop: threading.Event | None = None,
    ) -> Iterator[Event]:
        """What happens, as it happens; see `cairn._events.events` for ``open`` and ``heartbeat``."""
        query: Query = {"run": run or None, "job": job or None, "types": ",".join(types) or None}
        return _events.events(
            self.api, self._team("events"), query, last_id=last_id, patience=patience, stop=stop
        )

    def teams(self) -> list[Json]:
        """The caller's teams."""
        return list(self.api.pages(f"{BASE}/teams", "teams"))

    def usage(self) -> Json:
        """GPU-seconds and CPU-seconds that the team used."""
        return self.api.get(self._team("usage"))

    def usage_sums(self, query: Mapping[str, Any], *, every: bool = False) -> Json:
        """GPU-ms, core-ms and micro-money of this team, or (``every``) of all that the caller may see.

        ``query``: group_by (TEAM, USER, PROJECT, FLAVOR), period (DAY to YEAR), timezone, start_time and
        end_time (RFC 3339).
        """
        where = f"{BASE}/usage" if every else self._team("usage", "sums")
        return self.api.get(where, dict(query))

    def quota_tree(self, *, use: bool = False, document: bool = False) -> Json:
        """The quota tree as far as the caller may see it; with uses and balances, or as a tree file."""
        wanted = {"use": "true" if use else None, "document": "true" if document else None}
        return self.api.get(f"{BASE}/quota/tree", wanted)

    def apply_quota_tree(
        self, document: str, *, node: str = "", etag: str = "", validate_only: bool = False
    ) -> Json:
        """Applies a tree file, or says what it would change. Stale ``etag``: `ApiError` ETAG_MISMATCH."""
        body = {
            "document": document,
            "node": node,
            "etag": etag,
            "validate_only": validate_only,
            "request_id": new_uid(),
        }
        return self.api.post(f"{BASE}/quota/tree", body)

    def quota_versions(self, count: int) -> list[Json]:
        """The last versions of the quota tree, newest first."""
        return list(self.api.pages(f"{BASE}/quota/tree/versions", "versions", limit=count))

    def adjust_budget(self, budget: str, amount: int, *, reason: str, request_id: str) -> Json:
        """Adds to a budget's period of now, in its own unit (GPU-ms or micro-money)."""
        body: Json = {"amount": amount, "reason": reason, "request_id": request_id}
        return self.api.post(f"{BASE}/quota/budgets/{segment(budget)}:adjust", body)

    def _order(
        self, task: str, code: Json | None, name: str, validate_only: bool, request_id: str | None, *,
        secrets: Mapping[str, str] | None, mounts: Sequence[Json],
    ) -> Json:  # fmt: skip
        body: Json = {"task": task, "display_name": name, "request_id": request_id or new_uid()}
        if code:
            body["code"] = code
        if validate_only:
            body["validate_only"] = True
        if secrets:
            body["secrets"] = dict(secrets)
        if mounts:
            body["mounts"] = list(mounts)
        return body


def _page(limit: int | None) -> int:
    return min(limit or 1000, 1000)

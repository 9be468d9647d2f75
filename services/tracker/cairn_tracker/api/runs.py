"""TrackerService."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import asyncpg
from grpc import aio

from cairn.tracker.v1 import metric_pb2, run_pb2, tracker_pb2, tracker_pb2_grpc
from cairn_common.auth import Access, Principal, Role, access
from cairn_common.clock import Clock
from cairn_common.db import Database
from cairn_common.errors import Aborted, AlreadyExists, InvalidArgument, Reason
from cairn_common.ids import check_id, check_uid, new_uid, parse_name
from cairn_common.once import digest
from cairn_common.paging import Position, decode_token, encode_token, page_size
from cairn_common.rpc import caller
from cairn_tracker import compare, expression, logs, search, series, series_in_store, tail, wire
from cairn_tracker.api.names import run_of, runs_of, team_of, unknown_run
from cairn_tracker.batch import LAST_STEP, STREAMS, RunKey
from cairn_tracker.changes import LONGEST_NOTES, LONGEST_TEXT, clean, clean_texts, plain
from cairn_tracker.clickhouse import ClickHouse
from cairn_tracker.ingest import announce
from cairn_tracker.model import DEFAULT_EXPERIMENT, Run, RunState
from cairn_tracker.store import expiry, runs, searches

NAME: Final = "cairn.tracker.v1.TrackerService"
ACCESS: Mapping[str, Access] = {
    f"/{NAME}/CreateRun": access(Role.MEMBER),
    f"/{NAME}/GetRun": access(Role.VIEWER, run_token=True),
    f"/{NAME}/ListRuns": access(Role.VIEWER),
    f"/{NAME}/UpdateRun": access(Role.MEMBER),
    f"/{NAME}/ListExperiments": access(Role.VIEWER),
    f"/{NAME}/QuerySeries": access(Role.VIEWER, run_token=True),
    f"/{NAME}/TailSeries": access(Role.VIEWER, run_token=True),
    f"/{NAME}/CompareRuns": access(Role.VIEWER),
    f"/{NAME}/ListLogLines": access(Role.VIEWER),
}

_MOST_RUNS: Final = 100
_MOST_KEYS: Final = 100
_MOST_TAGS: Final = 100
# Metrics of each run in a comparison: more is no table, and would not fit into a message.
_MOST_COMPARED: Final = 500
_LONGEST_PATTERN: Final = 1_000
# Under the 4 MB of a message, with room for the last run of a page.
_PAGE_BYTES: Final = 2_500_000

Context = aio.ServicerContext[Any, Any]


class TrackerApi(tracker_pb2_grpc.TrackerServiceServicer):
    """Runs, what they logged, and how they compare."""

    def __init__(self, *, db: Database, store: ClickHouse, clock: Clock) -> None:
        self._db = db
        self._store = store
        self._clock = clock

    async def CreateRun(self, request: tracker_pb2.CreateRunRequest, context: Context) -> run_pb2.Run:
        """Makes a run without a job; the same run_id or request_id again gives the same run.

        Raises InvalidArgument (REQUEST_ID_REUSED) where the request_id was another request's.
        """
        who = caller()
        team = team_of(who, request.parent, Role.MEMBER)
        wanted = _new_run(request, team, who, self._clock.now())
        same = digest(request)
        try:
            made = await self._create(wanted, request.request_id, same)
        except asyncpg.UniqueViolationError:
            # The same request_id, at the same time.
            made = await self._create(wanted, request.request_id, same)
        return wire.run(made)

    async def GetRun(self, request: tracker_pb2.GetRunRequest, context: Context) -> run_pb2.Run:
        """One run, whole."""
        return wire.run(await self._run(run_of(caller(), request.name, Role.VIEWER)))

    async def ListRuns(
        self, request: tracker_pb2.ListRunsRequest, context: Context
    ) -> tracker_pb2.ListRunsResponse:
        """A team's runs that an expression holds for, newest first or as asked."""
        team = team_of(caller(), request.parent, Role.VIEWER)
        wanted, scope = _search(request, team)
        size = page_size(request.page_size)
        found = await searches.search(self._db, wanted, limit=size + 1)
        page = [wire.run(item.run, whole=False) for item in found[:size]]
        page = page[: _fitting(page)]
        response = tracker_pb2.ListRunsResponse(runs=page)
        if len(page) < len(found):
            place = found[len(page) - 1].place
            response.next_page_token = encode_token({"place": json.dumps(_written(place))}, scope=scope)
        return response

    async def UpdateRun(self, request: tracker_pb2.UpdateRunRequest, context: Context) -> run_pb2.Run:
        """Changes what people say of a run."""
        key = run_of(caller(), request.run.name, Role.MEMBER)
        fields = set(request.update_mask.paths)
        if not fields or fields - {"display_name", "tags", "group", "notes"}:
            raise InvalidArgument(
                "update_mask: display_name, tags, group and notes can be changed, and one must be named",
                reason=Reason.MASK_INVALID,
            )
        name = _text(request.run.display_name, "display_name") if "display_name" in fields else None
        tags = _tags(request.run.tags) if "tags" in fields else None
        group = _text(request.run.group, "group") if "group" in fields else None
        notes = _text(request.run.notes, "notes", LONGEST_NOTES) if "notes" in fields else None
        now = self._clock.now()
        await self._run(key)
        async with self._db.transaction() as conn:
            changed = await runs.update(
                conn, key, display_name=name, tags=tags, group=group, notes=notes,
                revision=_revision(request.run.etag), now=now,
            )  # fmt: skip
            if not changed:
                raise Aborted(
                    f"etag {request.run.etag[:80]!r} is old; read the run again", reason=Reason.ETAG_MISMATCH
                )
            await announce(conn, key, created=False, now=now)
        return wire.run(await self._run(key))

    async def ListExperiments(
        self, request: tracker_pb2.ListExperimentsRequest, context: Context
    ) -> tracker_pb2.ListExperimentsResponse:
        """A team's experiments, by id."""
        team = team_of(caller(), request.parent, Role.VIEWER)
        scope = f"experiments/{team}"
        size = page_size(request.page_size)
        token = request.page_token
        after = decode_token(token, scope=scope, read=lambda at: str(at["id"])) if token else ""
        found = await runs.list_experiments(self._db, team, after=after, limit=size + 1)
        more = encode_token({"id": found[size - 1].id}, scope=scope) if len(found) > size else ""
        return tracker_pb2.ListExperimentsResponse(
            experiments=[wire.experiment(item) for item in found[:size]], next_page_token=more
        )

    async def QuerySeries(
        self, request: tracker_pb2.QuerySeriesRequest, context: Context
    ) -> tracker_pb2.QuerySeriesResponse:
        """Metrics over steps, in buckets where there are many."""
        who = caller()
        team = team_of(who, request.parent, Role.VIEWER)
        uids = runs_of(who, team, request.runs, most=_MOST_RUNS)
        if len(request.keys) > _MOST_KEYS:
            raise InvalidArgument(f"keys: at most {_MOST_KEYS} can be asked for at once", field="keys")
        if request.start_step < 0 or request.end_step < 0 or request.max_buckets < 0:
            raise InvalidArgument("start_step, end_step and max_buckets must not be negative")
        first, end = request.start_step, request.end_step or LAST_STEP + 1
        found = await series.series(
            self._store,
            team,
            runs=uids,
            keys=list(request.keys),
            max_buckets=min(request.max_buckets or 1_000, 10_000),
            first=first,
            end=end,
        )
        made = [wire.series(team, item) for item in found]
        if request.count_unbounded:
            names = [(item.run, item.key) for item in found]
            counts = await series_in_store.unbounded(self._store, team, names, first=first, end=end)
            for name, told in zip(names, made, strict=True):
                told.unbounded = counts.get(name, 0)
        return tracker_pb2.QuerySeriesResponse(series=made)

    async def TailSeries(
        self, request: tracker_pb2.TailSeriesRequest, context: Context
    ) -> tracker_pb2.TailSeriesResponse:
        """What is new of metrics since a cursor."""
        who = caller()
        team = team_of(who, request.parent, Role.VIEWER)
        uids = runs_of(who, team, request.runs, most=_MOST_RUNS)
        if len(request.keys) > _MOST_KEYS:
            raise InvalidArgument(f"keys: at most {_MOST_KEYS} can be asked for at once", field="keys")
        found = await tail.tail(
            self._db, self._store, team, runs=uids, keys=list(request.keys), cursor=request.cursor
        )
        return tracker_pb2.TailSeriesResponse(
            series=[wire.series(team, item) for item in found.series],
            changed=[
                tracker_pb2.TailSeriesResponse.Changed(run=wire.run_name(team, run), key=key)
                for run, key in found.changed
            ],
            cursor=found.cursor,
        )

    async def CompareRuns(
        self, request: tracker_pb2.CompareRunsRequest, context: Context
    ) -> metric_pb2.Comparison:
        """Runs side by side."""
        who = caller()
        team = team_of(who, request.parent, Role.VIEWER)
        uids = runs_of(who, team, request.runs, most=_MOST_RUNS)
        found = await runs.get_runs(
            self._db, team, uids, most_metrics=_MOST_COMPARED, keys=list(request.metrics)
        )
        if len(found) < len(uids):
            missing = sorted(set(uids) - {run.uid for run in found})[0]
            raise unknown_run(RunKey(team, missing))
        table = compare.compare(
            found,
            metrics=list(request.metrics),
            minimize=list(request.minimize),
            all_params=request.all_params,
            now=self._clock.now(),
        )
        return wire.comparison(table)

    async def ListLogLines(
        self, request: tracker_pb2.ListLogLinesRequest, context: Context
    ) -> tracker_pb2.ListLogLinesResponse:
        """A run's console lines by arrival, from a cursor."""
        key = run_of(caller(), request.parent, Role.VIEWER)
        known = await expiry.lines(self._db, key)
        if known is None:
            raise unknown_run(key)
        query = logs.Query(
            team=key.team,
            run=key.uid,
            last=known.count,
            attempt=max(0, request.attempt),
            rank=request.rank if request.HasField("rank") else -1,
            stream=_stream(request.stream),
            since=request.since_time.ToNanoseconds() / 1e9 if request.HasField("since_time") else 0.0,
            grep=_pattern(request.grep),
        )
        most = page_size(request.page_size, default=1_000, most=5_000)
        after = _cursor(request.cursor)
        if not request.cursor and request.tail > 0:
            after = await logs.tail(self._store, query, min(request.tail, most))
        after = max(after, known.dropped)
        lines, cursor = await logs.read(self._store, query, after=after, most=most)
        return tracker_pb2.ListLogLinesResponse(
            lines=[wire.line(line) for line in lines],
            cursor=str(cursor),
            complete=known.complete and cursor >= known.count,
            drop_time=wire.stamp(known.drop_time),
        )

    async def _run(self, key: RunKey) -> Run:
        run = await runs.get_run(self._db, key.team, key.uid)
        if run is None:
            raise unknown_run(key)
        return run

    async def _create(self, wanted: Run, request_id: str, same: bytes) -> Run:
        if request_id:
            known = await runs.by_request(self._db, wanted.team, wanted.creator, request_id)
            if known is not None:
                uid, before = known
                if before not in (None, same):
                    raise InvalidArgument(
                        f"request_id {request_id[:80]!r} was used before for another run; choose a new one",
                        reason=Reason.REQUEST_ID_REUSED,
                        run=uid,
                    )
                return await self._run(RunKey(wanted.team, uid))
        async with self._db.transaction() as conn:
            if await runs.create(conn, wanted, request_id=request_id, request_digest=same):
                await announce(conn, RunKey(wanted.team, wanted.uid), created=True, now=wanted.create_time)
        run = await self._run(RunKey(wanted.team, wanted.uid))
        if run.creator != wanted.creator or run.has_job:
            raise AlreadyExists(f"run {run.uid} was made by another caller", reason=Reason.RUN_EXISTS)
        return run


def _new_run(request: tracker_pb2.CreateRunRequest, team: str, who: Principal, now: datetime) -> Run:
    given = request.run
    experiment = DEFAULT_EXPERIMENT
    if given.experiment:
        bare = "/" not in given.experiment
        pattern = "teams/{team}/experiments/{experiment}"
        experiment = given.experiment if bare else parse_name(pattern, given.experiment)["experiment"]
        check_id(experiment, "run.experiment")
    params = plain(given.params)
    if len(json.dumps(params)) > 256 * 1024:
        raise InvalidArgument("run.params: more than 256 KiB; log large values as a file", field="run.params")
    return Run(
        team=team,
        uid=check_uid(request.run_id, "run_id") if request.run_id else new_uid(),
        display_name=_text(given.display_name, "run.display_name"),
        create_time=now,
        update_time=now,
        state=RunState.RUNNING,
        revision=1,
        creator=who.subject,
        experiment=experiment,
        params=params,
        tags=_tags(given.tags),
        group=_text(given.group, "run.group"),
        notes=_text(given.notes, "run.notes", LONGEST_NOTES),
        command=clean(given.command),
        environment=clean_texts(given.environment),
    )


def _pattern(text: str) -> str:
    if len(text.encode()) > _LONGEST_PATTERN or "\0" in text:
        raise InvalidArgument(
            f"grep: at most {_LONGEST_PATTERN:,} bytes, none of them zero",
            field="grep",
            reason=Reason.FIELD_INVALID,
        )
    return text


def _stream(name: str) -> str:
    if name and name not in STREAMS:
        raise InvalidArgument(
            f"stream: {name[:40]!r} is none of {', '.join(STREAMS)}",
            field="stream",
            reason=Reason.FIELD_INVALID,
        )
    return name


def _text(text: str, field: str, longest: int = LONGEST_TEXT) -> str:
    if len(text) > longest:
        raise InvalidArgument(f"{field}: {len(text):,} characters; at most {longest:,}", field=field)
    return clean(text)


def _tags(tags: Sequence[str]) -> list[str]:
    if len(tags) > _MOST_TAGS:
        raise InvalidArgument(f"tags: {len(tags):,} were given; at most {_MOST_TAGS}", field="tags")
    return list(dict.fromkeys(_text(tag, "tags") for tag in tags))


def _revision(etag: str) -> int | None:
    """The revision that an etag stands for; None without one. One that never was one matches no run."""
    if not etag:
        return None
    return int(etag) if etag.isascii() and etag.isdigit() and len(etag) < 19 else -1


def _search(request: tracker_pb2.ListRunsRequest, team: str) -> tuple[searches.Search, str]:
    """What is searched for, and the scope of its page tokens."""
    chosen = sorted(request.states)
    where = runs.Filter(
        team=team, experiment=request.experiment.rpartition("/")[2], sweep=request.sweep, states=chosen
    )
    tree = expression.parse(request.filter) if request.filter.strip() else None
    by, falling = expression.order(request.order_by) if request.order_by.strip() else (None, False)
    scope = json.dumps(
        ["runs", team, request.experiment, request.sweep, chosen, request.filter, request.order_by]
    )
    kinds = searches.key_kinds(by)
    token = request.page_token
    place = decode_token(token, scope=scope, read=lambda at: _place(at, kinds)) if token else ()
    return searches.Search(where=where, tree=tree, by=by, falling=falling, place=place), scope


def _written(place: search.Place) -> list[str | None]:
    """A place as JSON can hold it, without loss."""

    def write(value: str | float | datetime | None) -> str | None:
        if isinstance(value, datetime):
            return value.isoformat()
        return value.hex() if isinstance(value, float) else value

    return [write(value) for value in place]


def _place(position: Position, kinds: Sequence[str]) -> search.Place:
    """What `_written` wrote. Raises ValueError for anything else."""

    def read(text: object, kind: str) -> str | float | datetime | None:
        if text is None:
            return None
        if not isinstance(text, str) or "\0" in text:
            raise ValueError("not what was written")
        if kind == "text":
            return text
        if kind == "float8":
            return float.fromhex(text)
        time = datetime.fromisoformat(text)
        if time.tzinfo is None:
            raise ValueError("a time without a zone")
        return time

    texts = json.loads(str(position["place"]))
    return [read(text, kind) for text, kind in zip(texts, kinds, strict=True)]


def _cursor(cursor: str) -> int:
    if not cursor:
        return 0
    if not (cursor.isascii() and cursor.isdigit() and len(cursor) < 19):
        raise InvalidArgument("cursor is not one that this call gave", reason=Reason.CURSOR_INVALID)
    return int(cursor)


def _fitting(page: Sequence[run_pb2.Run]) -> int:
    """How many fit into one answer; at least one."""
    size = 0
    for place, run in enumerate(page):
        size += run.ByteSize()
        if size > _PAGE_BYTES and place:
            return place
    return len(page)

"""The run that this process belongs to: `init`, `log`, `finish`.

Logging never raises and never waits for anything but its own process's file. In a job the runner ships that
file; elsewhere a thread does, if a server is configured; without one the file is the local store.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from cairn import _config, _env, _local, _values
from cairn._frames import LineRecord
from cairn._ids import is_uid, new_uid
from cairn._params import Config
from cairn._spool import Writer

if TYPE_CHECKING:
    from cairn._capture import Capture
    from cairn._console import ConsoleCapture
    from cairn._http import Api
    from cairn._media import Shelf
    from cairn._shipping import Shipping

_log = logging.getLogger("cairn")
_now = time.time

_STDOUT = 1
_MAX_TEXT = 64 * 1024
_LONGEST_GROUP = 500
_LAST_STEP = _values.LAST_STEP
_LONGEST_NOTES = 16_000


class Run:
    """A record of work, seen from inside. `cairn.init` makes it; threads may share it, forks may too.

    `uid`, `team` and `attempt` (0 without a job) are its identity, `spool` is where its records lie.
    """

    def __init__(
        self, *, uid: str, team: str, name: str, spool: Path, directory: Path, strict: bool,
        job: _env.JobEnvironment | None = None, params: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        self.uid = uid
        self.team = team
        self.name = name
        self.spool = spool
        self.directory = directory
        self.job = job
        self.attempt = job.attempt if job else 0
        self.config = Config(params, lambda added: self.update(params=added))
        self._group = self._notes = ""
        self.strict = strict
        self.finished = False
        self._writer = Writer(spool)
        # Re-entrant: a signal handler may log while this thread is in here.
        self._lock = threading.RLock()
        self._next_step = 0
        self._line_number = 0
        self._warned: set[str] = set()
        self._api: Api | None = None
        self._shipping: Shipping | None = None
        self._capture: Capture | None = None
        self._console: ConsoleCapture | None = None
        self._record: dict[str, Any] = {}
        self._error = ""
        self._media_left_out = 0
        # Where media lie that wait; made by the first of them.
        self.shelf: Shelf | None = None
        self._owner = os.getpid()

    def log(self, values: Mapping[str, Any] | str, step: int | None = None) -> None:
        """Appends metrics at a step, or a line of text.

        Nested mappings are joined by `/`. Without `step` each call takes the next one. A value may be a
        `Histogram`, `Table` or `Image`, or a list of them; what is neither that nor a number is left out with
        one warning. Never raises, unless the run is `strict` (ValueError then).
        """
        now = _now()
        try:
            if type(values) is not dict or self.finished:
                self._log_other(values, step, now)
                return
            if step is None:
                with self._lock:
                    step = self._next_step
                    self._next_step = step + 1
            elif type(step) is not int or not 0 <= step <= _LAST_STEP:
                self._log_carefully(values, _values.whole_step(step), now)
                return
            elif step >= self._next_step:
                self._next_step = step + 1
            try:
                self._writer.points(tuple(values), values.values(), step, now)
            except Exception:  # nested, or no number: nothing has been written yet
                self._log_carefully(values, step, now)
        except Exception as error:
            self._problem("log", str(error), error)

    def media_waits(self) -> None:
        """Called when a file of media lies beside the spool: in a job its runner sends it."""
        if self._shipping is not None:
            self._shipping.media_waits()

    def leave_out_media(self, count: int) -> None:
        """Called when there was no room for so many images and tables: they count among what was dropped."""
        self._media_left_out += count
        self._writer.lose(count)

    def event(self, arm: str, value: Mapping[str, Any]) -> None:
        """Appends an event of cairn.job.v1, such as `run_resumed`. Never raises, unless the run is `strict`.

        As JSON: the environment of a job may be without protobuf.
        """
        try:
            self._writer.json(arm, value)
        except (TypeError, ValueError) as error:
            self._problem("event", f"an event cannot be recorded: {error}", error)

    def update(
        self, *, params: Mapping[str, Any] | None = None, tags: Sequence[str] = (), group: str | None = None,
        notes: str | None = None,
    ) -> None:  # fmt: skip
        """Adds params or tags; sets the group (500 characters) or the notes (16,000), of which longer ones
        are cut. Never raises, unless the run is `strict`.
        """
        try:
            added = {str(key): _values.plain(value) for key, value in (params or {}).items()}
            dict.update(self.config, params or {})  # not the config's own update, which comes here
            with self._lock:
                texts = self._describe(group, notes)
                self._writer.json("run_updated", {"params": added, "tags": list(map(str, tags)), **texts})
                if self._record:
                    self._record |= texts
                    self._record["params"] |= added
                    self._record["tags"] = [*dict.fromkeys([*self._record["tags"], *map(str, tags)])]
                    self._save_record()
        except Exception as error:
            self._problem("update", str(error), error)

    @property
    def group(self) -> str:
        """The name that runs which belong together share, as this process gave it. May be set at any time."""
        return self._group

    @group.setter
    def group(self, group: str) -> None:
        self.update(group=group)

    @property
    def notes(self) -> str:
        """What people should know of the run, as this process gave it. May be set at any time."""
        return self._notes

    @notes.setter
    def notes(self, notes: str) -> None:
        self.update(notes=notes)

    def define_metric(self, key: str, *, step_metric: str) -> None:
        """Says over which metric another one is drawn, in place of the step: both are logged at one step.

        Each `*` in `key` stands for any characters; of several that fit a metric's own key counts, then the
        longest. At most 100 of them; an empty `step_metric` takes one back. Never raises, unless the run is
        `strict`.
        """
        try:
            axes = {_values.name(key, "a metric"): _values.name(step_metric, "step_metric", empty=True)}
            with self._lock:
                self._writer.json("run_updated", {"axes": axes})
                if self._record:
                    self._record["axes"] = {**self._record.get("axes", {}), **axes}
                    self._save_record()
        except Exception as error:
            self._problem("define_metric", str(error), error)

    def _describe(self, group: str | None, notes: str | None) -> dict[str, str]:
        """Keeps what was given of both, and returns it as an event has it."""
        if group is not None:
            self._group = str(group)[:_LONGEST_GROUP]
        if notes is not None:
            self._notes = str(notes)[:_LONGEST_NOTES]
        given = {"group": (group, self._group), "notes": (notes, self._notes)}
        return {name: kept for name, (asked, kept) in given.items() if asked is not None}

    def resumed_from(self, step: int) -> None:
        """Goes on from a checkpoint: the next automatic step is the one behind it."""
        with self._lock:
            self._next_step = step + 1

    @property
    def step(self) -> int:
        """The step that the next `log` without one takes."""
        return self._next_step

    @property
    def dropped(self) -> int:
        """Points that were lost to a full disk and a full memory, and media for which there was no room."""
        return self._writer.dropped

    def history(self, key: str) -> list[_local.Point]:
        """A metric by step, as far as it lies on this machine (what a server has taken is there)."""
        return _local.history(self.spool, key=key)

    def api(self) -> Api | None:
        """The server's HTTP API with this run's rights; None without a server."""
        if self._api is None:
            from cairn._http import Api

            if self.job is not None:
                self._api = Api(self.job.url, self.job.token) if self.job.url else None
            else:
                config = _config.configured()
                self._api = Api(config.url, lambda: _config.configured().token) if config.url else None
        return self._api

    def finish(self, *, failed: bool = False, message: str = "", timeout: float = 10.0) -> None:
        """Ends a run without a job, and waits up to `timeout` seconds until the server has everything.

        In a job it waits for checkpoints alone and brings the rest to the disk: the command's exit says how
        the job ended. Never raises.
        """
        try:
            if (checkpoints := sys.modules.get("cairn.checkpoints")) is not None:
                checkpoints.wait_for_checkpoints(timeout)
            if self.job is not None or self._owner != os.getpid():
                self._writer.flush()
            elif not self.finished:
                from cairn import _jobless

                _jobless.finish(self, failed=failed, message=message, timeout=timeout)
        except Exception as error:
            self._problem("finish", f"the run could not be finished: {error}", error)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.finish(failed=error is not None, message=_told(error))

    def _log_other(self, values: Any, step: Any, now: float) -> None:
        if self.finished:
            raise ValueError("the run is finished; cairn.init() begins another one")
        if isinstance(values, str):
            self._log_text(values, now)
        elif isinstance(values, Mapping):
            self.log(dict(values), step)
        else:
            raise ValueError(f"cairn.log takes a dict of metrics or a text, not {type(values).__name__}")

    def _log_carefully(self, values: Mapping[Any, Any], step: int, now: float) -> None:
        problems: list[str] = []
        flat, media = _values.flatten(values, problems.append)
        with self._lock:
            self._next_step = max(self._next_step, step + 1)
        if flat:
            self._writer.points(tuple(flat), flat.values(), step, now)
        if media:
            from cairn import _media

            _media.log(self, media, step=step, time=now, report=problems.append)
        for problem in problems:
            self._problem(problem.split(":")[0], problem, ValueError(problem))

    def _log_text(self, text: str, now: float) -> None:
        if sys.stdout is not None:
            sys.stdout.write(text + "\n")
            sys.stdout.flush()
        if self.job is not None or self._console is not None:
            return  # what is printed is recorded, in the order that it was printed
        with self._lock:
            if not self._line_number and os.getpid() != self._owner:
                self._line_number = os.getpid() << 32  # numbers of forks do not meet
            first = self._line_number + 1
            parts = [part[:_MAX_TEXT] for part in text.split("\n")]
            self._line_number += len(parts)
        self._writer.lines(
            [LineRecord(now, _STDOUT, 0, first + place, part) for place, part in enumerate(parts)]
        )

    def _problem(self, kind: str, text: str, error: Exception) -> None:
        if self.strict:
            raise error if isinstance(error, ValueError) else ValueError(text)
        if kind not in self._warned and len(self._warned) < 100:
            self._warned.add(kind)
            _log.warning("cairn: %s", text)

    def _started(
        self, *, params: Mapping[str, Any], tags: Sequence[str], experiment: str, group: str | None,
        notes: str | None,
    ) -> None:  # fmt: skip
        start = datetime.now(UTC)
        texts = self._describe(group, notes)
        self._writer.json(
            "run_started",
            {
                "time": start.isoformat().replace("+00:00", "Z"),
                "params": params,
                "tags": list(tags),
                "command": _env.describe_command(),
                "environment": _env.describe_process(),
                "experiment": experiment,
                "display_name": self.name,
                **texts,
            },
        )
        if self.job is None:
            self._record = {
                "uid": self.uid, "team": self.team, "name": self.name, "experiment": experiment or "default",
                "state": "running", "start_time": start.timestamp(), "pid": self._owner,
                "params": dict(params), "tags": list(tags), **texts,
            }  # fmt: skip
            self._save_record()

    def _save_record(self) -> None:
        _local.write_record(self.directory, self._record)


_current: Run | None = None
_beginning = threading.RLock()


def init(
    experiment: str | None = None,
    name: str | None = None,
    *,
    run: str | None = None,
    params: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
    tags: Sequence[str] | None = None,
    group: str | None = None,
    notes: str | None = None,
    strict: bool = False,
    capture: bool = True,
    console: str | None = None,
) -> Run:
    """Begins this process's run and returns it; in a job that is the job's run.

    `params` (or `config`, its other name) are merged with what the platform chose for this job, which wins.
    `group` names runs that belong together, `notes` are for people. `experiment` and `name` are for runs
    without a job. Needs no server and no network. Never raises, unless `strict`: then it, and
    the run's `log`, raise ValueError for what they cannot take. Without a job, git, installed packages and
    use of the machine (`system/...`) are recorded, too, unless `capture` is false; with `console="fd"` also
    what this process and its children print, to descriptors 1 and 2, until the run's end (in a job its runner
    does that).

    With `run`, the uid of a run (of any process or machine, running or ended), this process goes on in that
    one, beside others that do; a uid that nobody knows begins a run, so a launcher makes one for all its
    ranks. Steps that `log` counts itself go on behind the highest that is known here or at the server (asked
    once, 2 s at most); processes that log one metric together give steps of their own. Each end of one of
    them is an end of the run until the next; it has failed if one of them has since it was begun last.
    """
    global _current
    with _beginning:
        given = {str(key): value for key, value in {**(config or {}), **(params or {})}.items()}
        labels = [str(tag) for tag in tags or ()]
        if _current is not None and _current.job is None and not _current.finished:
            if run is not None and run == _current.uid:
                _current.update(params=given, tags=labels, group=group, notes=notes)
                return _current
            _current.finish()
        made = _make_run(run, name or "", given | _env.given_params(), strict)
        _current = made
        try:
            plain = {key: _values.plain(value) for key, value in made.config.items()}
            made._started(params=plain, tags=labels, experiment=experiment or "", group=group, notes=notes)
        except Exception as error:
            made._problem("init", f"the run's beginning could not be recorded: {error}", error)
        if made.job is None:
            from cairn import _jobless

            _jobless.begin(made, capture=capture, console=console)
            _watch_exit()
        if run is not None:
            from cairn import _past

            _past.go_on(made, run)
        return made


def current_run() -> Run:
    """This process's run; begins one if there is none."""
    if _current is None:
        with _beginning:
            if _current is None:
                return init()
    return _current


def has_run() -> bool:
    return _current is not None


def log(values: Mapping[str, Any] | str, step: int | None = None) -> None:
    """Appends metrics at a step, or a line of text, to this process's run. See `Run.log`."""
    (_current or current_run()).log(values, step)


def log_table(
    key: str,
    rows: Any = (),
    columns: Sequence[Any] | None = None,
    *,
    step: int | None = None,
    caption: str = "",
) -> None:
    """Appends a `Table` to this process's run: rows (sequences or dicts) or a data frame."""
    from cairn.media import Table

    log({key: Table(rows, columns, caption=caption)}, step)


def log_image(key: str, image: Any, *, step: int | None = None, caption: str = "") -> None:
    """Appends an `Image` to this process's run: a path, bytes, an array, a PIL image or a figure."""
    from cairn.media import Image

    log({key: Image(image, caption=caption)}, step)


def define_metric(key: str, *, step_metric: str) -> None:
    """Says over which metric another one is drawn: `define_metric("val/*", step_metric="epoch")`. See
    `Run.define_metric`."""
    (_current or current_run()).define_metric(key, step_metric=step_metric)


def finish(*, failed: bool = False, message: str = "", timeout: float = 10.0) -> None:
    """Ends this process's run, if it has one. See `Run.finish`."""
    if _current is not None:
        _current.finish(failed=failed, message=message, timeout=timeout)


def _make_run(asked: str | None, name: str, params: Mapping[str, Any], strict: bool) -> Run:
    job = _env.job_environment()
    if job is not None:
        return Run(
            uid=job.run_uid, team=job.team, name=name, spool=job.spool, job=job, params=params, strict=strict,
            directory=job.spool.parent / "staging",
        )  # fmt: skip
    known = isinstance(asked, str) and is_uid(asked)
    if asked is not None and not known and strict:
        from cairn import _past

        raise ValueError(_past.no_uid(asked))
    uid = str(asked) if known else new_uid()
    folder = _local.make_run_folder(_local.part_of(uid) if known else uid)
    return Run(
        uid=uid, team=_config.configured().team, name=name, spool=folder / "spool", directory=folder,
        params=params, strict=strict,
    )  # fmt: skip


_watching = False


def _watch_exit() -> None:
    """Finishes the run at exit, as failed after an exception that nobody caught."""
    global _watching
    if _watching:
        return
    _watching = True
    before = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if _current is not None:
            _current._error = _told(error)
        before(kind, error, trace)

    sys.excepthook = hook
    atexit.register(finish)


def _told(error: BaseException | None) -> str:
    return f"{type(error).__name__}: {error}"[:1000] if error is not None else ""

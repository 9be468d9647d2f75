"""Log lines as they come, until the run is complete."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime

import click
from rich.status import Status
from rich.text import Text

from cairn._cli.records import Record, fetch, merge
from cairn._cli.session import Session
from cairn._cli.text import clean, clean_line, day, json_text, moment
from cairn._http import ApiError, Json
from cairn.client import Client

# These say nothing about log lines.
_QUIET = frozenset({"artifact.committed", "artifact.aliased", "artifact.deleted", "artifact.rotten"})


@dataclass(frozen=True, slots=True)
class Shown:
    """Which lines to show, and how."""

    attempt: int = 0
    rank: int | None = None
    tail: int = 0
    times: bool = False
    # A pattern, seconds since 1970, and a stream; empty: all lines.
    grep: str = ""
    since: float = 0.0
    stream: str = ""
    # On stderr, as stdout is kept for something else.
    aside: bool = False


class Printer:
    """Lines on stdout, with a mark where another attempt begins."""

    def __init__(self, session: Session, shown: Shown) -> None:
        self._session = session
        self._shown = shown
        self._attempt = 0
        self._ranks = False

    def lines(self, lines: list[Json]) -> None:
        for line in lines:
            self._line(line)

    def _line(self, line: Json) -> None:
        attempt, rank = int(line.get("attempt") or 0), int(line.get("rank") or 0)
        aside = self._shown.aside
        if self._session.as_json and not aside:
            click.echo(json_text(line))
            return
        colors = (self._session.err if aside else self._session.out).is_terminal
        if attempt != self._attempt:
            if self._attempt and colors:
                click.secho(f"── attempt {attempt} ──", dim=True, err=aside)
            self._attempt = attempt
        self._ranks = self._ranks or rank > 0
        text = clean_line(str(line.get("text", "")), colors=colors)
        if line.get("stream") in ("platform", "launch"):
            text = click.style(f"· {clean(text)}", fg="cyan", dim=True) if colors else f"· {text}"
        prefix = f"[{rank}] " if self._ranks else ""
        if self._shown.times:
            prefix = f"{_time(line)} {prefix}"
        click.echo((click.style(prefix, dim=True) if colors else prefix) + text, color=colors, err=aside)


def print_logs(session: Session, uid: str, shown: Shown) -> None:
    """All lines that there are now."""
    printer = Printer(session, shown)
    dropped = None
    for page in pages(session.client, uid, shown):
        printer.lines(page.get("lines", []))
        dropped = moment(page.get("drop_time"))
    if dropped is not None:
        session.say(Text(f"earlier lines were dropped on {day(dropped)} by the team's rule", "dim"))


def follow(session: Session, uid: str, shown: Shown) -> Record:
    """Prints lines until there will be no more; returns how the run ended.

    Lines are read when an event says that there are some, and after each (re)connection: the cursor alone
    says where to go on, so a lost event costs at most a heartbeat.
    """
    client = session.patient_client()
    printer, waiting = Printer(session, shown), _Waiting(session)
    cursor, record = "", merge(*fetch(client, uid))
    try:
        for event in client.events(run=uid, job=uid):
            if event.type in _QUIET:
                continue
            if (
                event.type in ("open", "heartbeat")
                or event.type.startswith("job.")
                or event.type == "run.updated"
            ):
                record = merge(*fetch(client, uid))
            waiting.show(record)
            cursor, complete = drain(client, uid, cursor, shown, waiting.over(printer.lines))
            if complete:
                break
    finally:
        waiting.stop()
    return merge(*fetch(client, uid))


def drain(
    client: Client, uid: str, cursor: str, shown: Shown, give: Callable[[list[Json]], None]
) -> tuple[str, bool]:
    """Gives all lines after `cursor`; returns the cursor behind them, and whether nothing more will come."""
    complete = False
    for page in pages(client, uid, shown, cursor):
        cursor, complete = str(page.get("cursor", cursor)), bool(page.get("complete"))
        give(page.get("lines", []))
    return cursor, complete


def pages(client: Client, uid: str, shown: Shown, cursor: str = "") -> Iterator[Json]:
    """Pages of lines until there are none for now.

    A job's run is made when the tracker hears of the job: until then, `uid` being known, there are no lines.
    """
    while True:
        try:
            page = client.logs(
                uid, cursor=cursor, attempt=shown.attempt, rank=shown.rank, tail=0 if cursor else shown.tail,
                page_size=1000, grep=shown.grep, since=shown.since, stream=shown.stream,
            )  # fmt: skip
        except ApiError as error:
            if error.reason == "RUN_NOT_FOUND":
                return
            raise
        yield page
        after = str(page.get("cursor", ""))
        if not page.get("lines") or after == cursor or page.get("complete"):
            return
        cursor = after


class _Waiting:
    """A line on a terminal that says why no output comes yet."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._status: Status | None = None

    def show(self, record: Record) -> None:
        if record.state in ("RUNNING", *_ENDED):
            self.stop()
            return
        text = f"{record.state.lower().replace('_', ' ')}" + (f": {record.note}" if record.note else "")
        if self._status is None and self._session.err.is_terminal and not self._session.as_json:
            self._status = self._session.err.status(text)
            self._status.start()
        elif self._status is not None:
            self._status.update(text)

    def over(self, give: Callable[[list[Json]], None]) -> Callable[[list[Json]], None]:
        """`give`, with the line out of the way while it prints."""

        def call(lines: list[Json]) -> None:
            if lines and self._status is not None:
                self.stop()
            give(lines)

        return call

    def stop(self) -> None:
        if self._status is not None:
            self._status.stop()
            self._status = None


_ENDED = ("SUCCEEDED", "FAILED", "CANCELLED", "TIMED_OUT")


def _time(line: Json) -> str:
    return datetime.fromtimestamp(float(line.get("time") or 0)).strftime("%H:%M:%S.%f")[:-3]

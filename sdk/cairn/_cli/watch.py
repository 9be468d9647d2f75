"""`cairn watch`"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator

import click
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from cairn._cli.ending import say_ending
from cairn._cli.errors import FAILED
from cairn._cli.find import ID, find
from cairn._cli.follow import Shown, drain
from cairn._cli.looks import counts_text, records_table
from cairn._cli.records import Record, fetch, listing, merge
from cairn._cli.session import Session, common
from cairn._cli.summary import heading, metrics_table
from cairn._cli.text import clean_line
from cairn._http import Json
from cairn._tailing import Tail
from cairn.client import Client

LINES = 12
# Ages grow by themselves; that the data is right does not depend on it.
REDRAW_SECONDS = 1.0
RECHECK_SECONDS = 15.0


@click.command(short_help="See runs change as it happens.")
@click.argument("run", type=ID, required=False)
@click.option("-e", "--experiment", default="", metavar="ID", help="Only this experiment.")
@click.option(
    "-n", "--limit", type=click.IntRange(1, 200), default=20, show_default=True, help="The newest N."
)
@common
@click.pass_context
def watch(ctx: click.Context, session: Session, run: str | None, experiment: str, limit: int) -> None:
    """See the newest runs change as it happens, or one RUN with its curves and last lines.

    With a RUN it ends when the run does, with exit code 1 where it did not succeed.
    """
    if run is None:
        _watch_list(session, experiment, limit)
        return
    uid = find(session.client, run)
    record = _watch_one(session, uid)
    if session.as_json:
        session.emit(record.json())
    ctx.exit(0 if record.state == "SUCCEEDED" or not record.final else FAILED)


def watch_until_final(session: Session, uids: set[str]) -> list[Record]:
    """Shows these runs until all have ended; returns them in the order they were made."""

    def mine() -> list[Record]:
        records, _ = listing(client, limit=1000)
        return [record for record in records if record.uid in uids]

    client = session.patient_client()
    with _live(session) as live:
        records: list[Record] = []

        def redraw() -> None:
            live.update(_list(records, session.out.width), refresh=True)

        for _ in ticks(client, redraw):
            records = mine()
            redraw()
            if len(records) == len(uids) and all(record.final for record in records):
                break
    if session.as_json:
        session.emit([record.json() for record in records])
    return records


def _watch_list(session: Session, experiment: str, limit: int) -> None:
    client = session.patient_client()
    with _live(session) as live:
        records: list[Record] = []

        def redraw() -> None:
            live.update(_list(records, session.out.width), refresh=True)

        for _ in ticks(client, redraw):
            records, _missing = listing(client, experiment=experiment, limit=limit)
            if session.as_json:
                session.emit([record.json() for record in records])
            redraw()


def _watch_one(session: Session, uid: str) -> Record:
    client = session.patient_client()
    lines: list[str] = []
    cursor, complete = "", False
    tail = Tail(client, uid, buckets=60)

    def keep(new: list[Json]) -> None:
        lines.extend(clean_line(str(line.get("text", "")), colors=False) for line in new)
        del lines[:-LINES]

    job, run = fetch(client, uid)
    record, series = merge(job, run), list[Json]()
    with _live(session) as live:

        def redraw() -> None:
            live.update(_one(record, series, (run or {}).get("summary", {}), lines), refresh=True)

        for _ in ticks(client, redraw, run=uid):
            job, run = fetch(client, uid)
            record = merge(job, run)
            series = tail.read() if run else []
            cursor, complete = drain(client, uid, cursor, Shown(tail=LINES), keep)
            redraw()
            if complete:
                break
    if not session.as_json:
        say_ending(session, record)
    return record


def ticks(client: Client, idle: Callable[[], None], *, run: str = "") -> Iterator[None]:
    """Yields when something happened that is worth a look, at most twice a second; calls `idle` in between.

    Events come in a thread of their own; an error of it is raised here. Ends with Ctrl-C.
    """
    heard: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()
    stop = threading.Event()

    def listen() -> None:
        try:
            for _ in client.events(run=run, job=run, stop=stop):
                heard.put(None)
        except Exception as error:
            heard.put(error)

    threading.Thread(target=listen, name="cairn-events", daemon=True).start()
    checked = 0.0
    try:
        while True:
            news = _wait(heard, REDRAW_SECONDS)
            if news or time.monotonic() - checked > RECHECK_SECONDS:
                checked = time.monotonic()
                yield
            else:
                idle()
    except KeyboardInterrupt:
        return
    finally:
        stop.set()


def _wait(heard: queue.SimpleQueue[Exception | None], timeout: float) -> bool:
    """Whether there was an event; a burst of them counts as one."""
    try:
        first = heard.get(timeout=timeout)
    except queue.Empty:
        return False
    time.sleep(0.2)
    errors = [first] if first is not None else []
    while not heard.empty():
        if (item := heard.get()) is not None:
            errors.append(item)
    if errors:
        raise errors[0]
    return True


def _live(session: Session) -> Live:
    """On a terminal a picture that changes; elsewhere only its last state."""
    console = session.err if session.as_json else session.out
    return Live(console=console, auto_refresh=False, transient=session.as_json)


def _list(records: list[Record], width: int) -> RenderableType:
    if not records:
        return Text("nothing yet; waiting (Ctrl-C ends)", style="dim")
    foot = counts_text(records).append("   Ctrl-C ends", style="dim")
    return Group(records_table(records, width=width), foot)


def _one(record: Record, series: list[Json], summary: Json, lines: list[str]) -> RenderableType:
    parts: list[RenderableType] = [heading(record)]
    if summary:
        parts += [Text(), metrics_table(series, summary)]
    if lines:
        parts += [
            Text(),
            *(Text(f"  {line}", style="dim", no_wrap=True, overflow="ellipsis") for line in lines),
        ]
    return Group(*parts)

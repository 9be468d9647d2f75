"""`cairn export`"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

from cairn._cli.errors import NOT_FOUND, USAGE, CliError
from cairn._cli.media_files import kind_of, save
from cairn._cli.session import Session, common
from cairn._history import COLUMNS
from cairn._http import ApiError, Json
from cairn.client import Client

# Name and kind of each column; sdk/README.md documents them.
RUNS = {
    "uid": "string", "name": "string", "experiment": "string", "state": "string", "creator": "string",
    "create_time": "string", "start_time": "string", "end_time": "string", "tags": "string",
    "params": "string", "summary": "string", "environment": "string", "command": "string",
    "points_drop_time": "string", "lines_drop_time": "string",
}  # fmt: skip
POINTS = dict(zip(COLUMNS, ("string", "string", "int64", "float64", "float64"), strict=True))
LINES = {
    "run": "string", "number": "int64", "attempt": "int64", "rank": "int64", "stream": "string",
    "time": "float64", "text": "string",
}  # fmt: skip
MEDIA = {
    "run": "string", "key": "string", "step": "int64", "index": "int64", "time": "string",
    "attempt": "int64", "kind": "string", "media_type": "string", "size": "int64", "digest": "string",
    "caption": "string", "width": "int64", "height": "int64", "rows": "int64", "file": "string",
}  # fmt: skip


@click.command(short_help="Write an experiment's runs, metrics and logs into files.")
@click.argument("experiment")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--format", "form", type=click.Choice(("parquet", "csv")), help="Default: parquet with pyarrow."
)
@click.option("--no-logs", is_flag=True, help="Without what the runs printed.")
@click.option("--no-media", is_flag=True, help="Without histograms, tables and images.")
@common
def export(
    session: Session, experiment: str, folder: Path, form: str | None, no_logs: bool, no_media: bool
) -> None:
    """Write EXPERIMENT into FOLDER: runs, media, points/<run> and lines/<run>, as parquet (with pyarrow) or
    CSV; the files of the media are in media/<run>/<key>/.

    A file is there whole or not at all. Exported again, what has changed is replaced.
    """
    form = form or ("parquet" if find_spec("pyarrow") else "csv")
    if form == "parquet" and not find_spec("pyarrow"):
        raise CliError("parquet needs pyarrow: `pip install pyarrow`, or --format csv", code=USAGE)
    client = session.client
    uids = [str(run["uid"]) for run in client.runs(experiment=experiment)]
    if not uids:
        raise CliError(f"there are no runs in experiment {experiment!r}", code=NOT_FOUND, hint="`cairn ls`")
    counts = {"runs": len(uids), "points": 0, "lines": 0, "media": 0}
    rows: list[Json] = []
    media: list[Json] = []
    for uid in uids:
        rows.append(_run_row(client.run(uid)))
        history = client.history(uid, system=True)
        _write(folder / "points" / f"{uid}.{form}", POINTS, [history.columns()])
        counts["points"] += len(history)
        if not no_logs:
            counts["lines"] += _write(folder / "lines" / f"{uid}.{form}", LINES, _lines(client, uid))
        if not no_media:
            media += _media(client, uid, folder)
    counts["media"] = len(media)
    if not no_media:
        _write(folder / f"media.{form}", MEDIA, [{name: [row[name] for row in media] for name in MEDIA}])
    _write(folder / f"runs.{form}", RUNS, [{name: [row[name] for row in rows] for name in RUNS}])
    if session.as_json:
        session.emit({"folder": str(folder), "format": form, **counts})
    else:
        told = ", ".join(f"{count:,} {name}" for name, count in counts.items())
        session.out.print(f"{told} in {folder} ({form})")


def _run_row(run: Json) -> Json:
    """What has no fixed columns as JSON."""
    texts = {
        name: json.dumps(run.get(name) or {}, ensure_ascii=False)
        for name in ("params", "summary", "environment")
    }
    return {
        **{name: str(run.get(name) or "") for name in RUNS},
        "name": str(run.get("display_name") or ""),
        "experiment": str(run.get("experiment") or "").rsplit("/", 1)[-1],
        "tags": json.dumps(run.get("tags") or [], ensure_ascii=False),
        **texts,
    }


def _media(client: Client, uid: str, folder: Path) -> Iterator[Json]:
    """A row for each item; `file`, below the folder, is empty where its bytes are on their way still."""
    for one in client.media(uid):
        for index, item in enumerate(one["items"]):
            try:
                path = save(client, uid, one, index, folder / "media" / uid)
                file = path.relative_to(folder).as_posix()
            except ApiError as error:
                if error.reason != "BLOB_NOT_FOUND":
                    raise
                file = ""
            yield {
                "run": uid, "index": index, "kind": kind_of(item), "file": file,
                **{name: str(one.get(name) or "") for name in ("key", "time")},
                **{name: int(one.get(name) or 0) for name in ("step", "attempt")},
                **{name: str(item.get(name) or "") for name in ("media_type", "digest", "caption")},
                **{name: int(item.get(name) or 0) for name in ("size", "width", "height", "rows")},
            }  # fmt: skip


def _lines(client: Client, uid: str) -> Iterator[Mapping[str, Sequence[Any]]]:
    cursor = ""
    while True:
        page = client.logs(uid, cursor=cursor)
        lines = page.get("lines", [])
        yield {
            "run": [uid] * len(lines),
            **{name: [int(line.get(name) or 0) for line in lines] for name in ("number", "attempt", "rank")},
            **{name: [str(line.get(name) or "") for line in lines] for name in ("stream", "text")},
            "time": [float(line.get("time") or 0) for line in lines],
        }
        after = str(page.get("cursor", ""))
        if not lines or after == cursor or page.get("complete"):
            return
        cursor = after


def _write(path: Path, schema: Mapping[str, str], parts: Any) -> int:
    """Writes parts of columns one after the other; returns the number of rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    write = _parquet if path.suffix == ".parquet" else _csv
    try:
        rows = write(temporary, schema, parts)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return rows


def _csv(path: Path, schema: Mapping[str, str], parts: Any) -> int:
    rows = 0
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(schema)
        for part in parts:
            writer.writerows(zip(*(part[name] for name in schema), strict=True))
            rows += len(part["run" if "run" in schema else "uid"])
    return rows


def _parquet(path: Path, schema: Mapping[str, str], parts: Any) -> int:
    arrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    kinds = arrow.schema([(name, getattr(arrow, kind)()) for name, kind in schema.items()])
    rows = 0
    with parquet.ParquetWriter(path, kinds, compression="zstd") as writer:
        for part in parts:
            table = arrow.table({name: part[name] for name in schema}, schema=kinds)
            writer.write_table(table)
            rows += table.num_rows
    return rows

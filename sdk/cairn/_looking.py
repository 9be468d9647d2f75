"""What is in datasets, and what changed between two versions of one, reading no more than that needs."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, cast

from cairn._http import Api, Json
from cairn._ranged import RangedFile
from cairn._transfer import Entry, entries_of

# Of a text file as much is read for its first rows, and at most so much to count its rows.
_HEAD = 256 * 1024
_COUNTED = 4 * 2**20
_LONGEST_CELL = 200


@dataclass(frozen=True, slots=True)
class Table:
    """Columns (name, type), how many rows there are (None: not known), and the first of them."""

    columns: list[tuple[str, str]]
    rows: int | None
    first: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Change:
    """A file that is in both versions with other bytes; of tables the columns and rows before and now."""

    path: str
    size_before: int
    size: int
    columns_added: list[str] = field(default_factory=list)
    columns_removed: list[str] = field(default_factory=list)
    columns_retyped: list[str] = field(default_factory=list)
    rows_before: int | None = None
    rows: int | None = None


@dataclass(frozen=True, slots=True)
class Difference:
    """Between two versions: files by path, with their sizes; `same` counts the others."""

    added: list[tuple[str, int]]
    removed: list[tuple[str, int]]
    changed: list[Change]
    same: int

    def json(self) -> Json:
        """As `--json` prints it."""
        files = [[{"path": path, "size": size} for path, size in some] for some in (self.added, self.removed)]
        changed = [asdict(each) for each in self.changed]
        return {"added": files[0], "removed": files[1], "changed": changed, "same": self.same}


def difference(api: Api, team: str, before: Json, now: Json) -> Difference:
    """What changed from one version to another."""
    old, new = ({entry.path: entry for entry in entries_of(api, version)} for version in (before, now))
    both = sorted(old.keys() & new.keys())
    changed = [path for path in both if old[path].parts != new[path].parts]
    return Difference(
        added=[(path, new[path].size) for path in sorted(new.keys() - old.keys())],
        removed=[(path, old[path].size) for path in sorted(old.keys() - new.keys())],
        changed=[_change(api, team, (before, old[path]), (now, new[path])) for path in changed],
        same=len(both) - len(changed),
    )


def readable(entries: Sequence[Entry]) -> Entry | None:
    """The first file that `table` can read."""
    return next((entry for entry in entries if _form(entry.path)), None)


def table(api: Api, team: str, entry: Entry, *, rows: int) -> Table:
    """Columns and first rows of a parquet, CSV, TSV or JSON lines file. Raises ValueError for what is none,
    ImportError for parquet without pyarrow, and as `RangedFile`."""
    file = RangedFile(api, team, entry)
    match _form(entry.path):
        case "parquet":
            return _parquet(file, rows)
        case "csv" | "tsv" as form:
            return _csv(file, rows, "\t" if form == "tsv" else ",")
        case "jsonl":
            return _lines(file, rows)
    raise ValueError(f"{entry.path} is no parquet, CSV, TSV or JSON lines file: nothing is shown of it")


def _form(path: str) -> str:
    end = path.rsplit(".", 1)[-1].lower()
    return {
        "parquet": "parquet",
        "pq": "parquet",
        "csv": "csv",
        "tsv": "tsv",
        "jsonl": "jsonl",
        "ndjson": "jsonl",
    }.get(end, "")


def _change(api: Api, team: str, before: tuple[Json, Entry], now: tuple[Json, Entry]) -> Change:
    old, new = _facts(api, team, *before), _facts(api, team, *now)
    sizes = {"path": now[1].path, "size_before": before[1].size, "size": now[1].size}
    if old is None or new is None:
        return Change(**cast(Any, sizes))
    was, is_ = dict(old.columns), dict(new.columns)
    return Change(
        **cast(Any, sizes),
        columns_added=[name for name in is_ if name not in was],
        columns_removed=[name for name in was if name not in is_],
        columns_retyped=[
            f"{name}: {was[name]} > {is_[name]}" for name in is_ if was.get(name, is_[name]) != is_[name]
        ],
        rows_before=old.rows,
        rows=new.rows,
    )


def _facts(api: Api, team: str, version: Json, entry: Entry) -> Table | None:
    """Columns and rows as they were kept with the version, else as far as the file itself tells."""
    about = version.get("metadata") or {}
    if len(version.get("entries", [])) == 1 and about.get("columns"):
        columns = [(str(each["name"]), str(each.get("type", ""))) for each in about["columns"]]
        return Table(columns, int(about["rows"]) if "rows" in about else None)
    if not _form(entry.path):
        return None
    try:
        return table(api, team, entry, rows=0)
    except (ValueError, ImportError):
        return None


def _parquet(file: RangedFile, rows: int) -> Table:
    import pyarrow.parquet as parquet  # type: ignore[import-untyped]

    try:
        # Unbuffered: pyarrow reads the footer, then the pages of the first row group alone.
        opened = parquet.ParquetFile(file)
        columns = [(each.name, str(each.type)) for each in opened.schema_arrow]
        first: list[dict[str, Any]] = []
        if rows:
            for batch in opened.iter_batches(
                batch_size=rows, row_groups=[0] if opened.num_row_groups else []
            ):
                first = batch.to_pylist()
                break
        return Table(columns, opened.metadata.num_rows, [_cells(row) for row in first])
    except Exception as error:  # pyarrow's kinds of errors are its own
        if isinstance(error, OSError | ValueError) or type(error).__module__.startswith("pyarrow"):
            raise ValueError(f"it is no parquet file that can be read: {error}") from error
        raise


def _csv(file: RangedFile, rows: int, delimiter: str) -> Table:
    text, whole = _text(file, _COUNTED if rows == 0 else _HEAD)
    try:
        found = [row for row in csv.reader(io.StringIO(text), delimiter=delimiter) if row]
    except csv.Error as error:
        raise ValueError(f"it is no CSV file that can be read: {error}") from None
    if not found:
        return Table([], 0 if whole else None)
    header, body = found[0], found[1:]
    first = [_cells(dict(zip(header, row, strict=False))) for row in body[:rows]]
    return Table([(name, "") for name in header], len(body) if whole else None, first)


def _lines(file: RangedFile, rows: int) -> Table:
    text, whole = _text(file, _COUNTED if rows == 0 else _HEAD)
    lines = [line for line in text.splitlines() if line.strip()]
    try:
        found = [json.loads(line) for line in lines[: max(rows, 1)]]
    except ValueError as error:
        raise ValueError(f"it is no JSON lines file that can be read: {error}") from None
    objects = [row if isinstance(row, dict) else {"value": row} for row in found]
    columns = {str(key): type(value).__name__ for row in objects for key, value in row.items()}
    return Table(
        list(columns.items()), len(lines) if whole else None, [_cells(row) for row in objects[:rows]]
    )


def _text(file: RangedFile, most: int) -> tuple[str, bool]:
    """The beginning of a text up to its last whole line, and whether that is all of it."""
    data = io.BufferedReader(file).read(most)
    whole = len(data) == file.size
    if not whole:
        data = data[: data.rfind(b"\n") + 1] or data
    return data.decode("utf-8-sig", "replace"), whole


def _cells(row: Mapping[Any, Any]) -> dict[str, Any]:
    """A row as JSON has it; what it has no word for, and long texts, cut."""
    return {str(key): _cell(value) for key, value in row.items()}


def _cell(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= _LONGEST_CELL else text[:_LONGEST_CELL] + "…"

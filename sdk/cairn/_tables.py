"""Tables of whatever library they are of, as a file: nothing is imported that did not make the table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_MOST_COLUMNS = 500


def is_table(value: object) -> bool:
    """Whether it is a data frame or a table of pandas, pyarrow or polars, or a list of dicts."""
    return _library(value) != ""


def write_table(table: Any, folder: Path, stem: str) -> tuple[Path, dict[str, Any]]:
    """Writes it as parquet (rows of dicts: JSON lines; pandas without pyarrow: CSV), and says what it is.

    Raises ValueError or OSError.
    """
    match _library(table):
        case "pyarrow":
            return _arrow(table, folder / f"{stem}.parquet")
        case "polars":
            path = folder / f"{stem}.parquet"
            table.write_parquet(path)
            columns = [(name, str(kind)) for name, kind in zip(table.columns, table.dtypes, strict=True)]
            return path, _about("parquet", table.height, columns)
        case "pandas":
            return _frame(table, folder, stem)
    path = folder / f"{stem}.jsonl"
    try:
        path.write_text("".join(json.dumps(row) + "\n" for row in table), encoding="utf-8")
    except TypeError as error:
        raise ValueError(f"a row is no JSON: {error}") from None
    return path, _about("jsonl", len(table), _columns(table))


def _library(value: object) -> str:
    if isinstance(value, list | tuple):
        return "rows" if value and all(isinstance(row, dict) for row in value) else ""
    library = type(value).__module__.partition(".")[0]
    fits = {"pandas": ("to_parquet",), "pyarrow": ("num_rows", "schema"), "polars": ("write_parquet",)}
    needed = fits.get(library, ())
    return library if needed and all(hasattr(value, name) for name in needed) else ""


def _arrow(table: Any, path: Path) -> tuple[Path, dict[str, Any]]:
    import pyarrow as pa  # type: ignore[import-untyped]
    import pyarrow.parquet  # type: ignore[import-untyped]

    if isinstance(table, pa.RecordBatch):
        table = pa.Table.from_batches([table])
    pyarrow.parquet.write_table(table, path)
    return path, _about("parquet", table.num_rows, [(each.name, str(each.type)) for each in table.schema])


def _frame(frame: Any, folder: Path, stem: str) -> tuple[Path, dict[str, Any]]:
    columns = [(str(name), str(kind)) for name, kind in frame.dtypes.items()]
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        path = folder / f"{stem}.csv"
        frame.to_csv(path, index=False)
        return path, _about("csv", len(frame), columns)
    path = folder / f"{stem}.parquet"
    try:
        frame.to_parquet(path, engine="pyarrow")
    except Exception as error:  # pyarrow's own kinds, which need not be there to be named
        raise ValueError(f"the data frame is no parquet: {error}") from error
    return path, _about("parquet", len(frame), columns)


def _columns(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    kinds: dict[str, str] = {}
    for row in rows:
        for key, value in row.items():
            kinds.setdefault(str(key), type(value).__name__)
    return list(kinds.items())


def _about(form: str, rows: int, columns: Sequence[tuple[str, str]]) -> dict[str, Any]:
    shown = [{"name": name, "type": kind} for name, kind in columns[:_MOST_COLUMNS]]
    return {"format": form, "rows": rows, "columns": shown}

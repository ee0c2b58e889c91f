"""Rows of files that anyone can have written: JSON lines and parquet, each with its place."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from importlib.resources.abc import Traversable
from io import StringIO
from pathlib import Path
from typing import Any

from charprobe_lite.models.errors import BadInput, first_problem


def read_json_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(file and line, the object) of every line that is not blank.

    Raises BadInput for what is no UTF-8 text, no JSON or no object.
    """
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        place = f"{path}: line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise BadInput(f"{place}: not JSON: {first_problem(error)}") from None
        if not isinstance(row, dict):
            raise BadInput(f"{place}: not a JSON object; write one row a line")
        yield place, row


def read_parquet_rows(
    path: Path, columns: Sequence[str] | None = None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """(file and row, the columns) of every row; all columns, or those that are named.

    Raises BadInput when pyarrow is missing, or the file is no parquet or lacks a column.
    """
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import read_table
    except ImportError:
        raise BadInput(
            f"{path}: parquet needs pyarrow; pip install 'charprobe-lite[tables]'"
        ) from None
    try:
        rows = read_table(path, columns=columns and list(columns)).to_pylist()
    except (ArrowException, OSError, ValueError) as error:
        raise BadInput(f"{path}: cannot be read as parquet ({first_problem(error)})") from None
    for number, row in enumerate(rows, 1):
        yield f"{path}: row {number}", row


def read_csv_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(file and line, the columns) of every row of a CSV file with a header. Raises BadInput."""
    reader = csv.DictReader(StringIO(read_text(path), newline=""))
    try:
        for row in reader:
            place = f"{path}: line {reader.line_num}"
            if None in row:
                raise BadInput(f"{place}: has more fields than the header; quote commas in texts")
            yield place, row
    except csv.Error as error:
        raise BadInput(f"{path}: line {reader.line_num}: not CSV: {error}") from None


def read_records(source: Path | Traversable, what: str = "scenarios") -> list[tuple[str, Any]]:
    """(place, record) of a JSON lines, JSON or YAML file. Raises BadInput for any other."""
    import yaml

    try:
        text = source.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise BadInput(f"{source}: {what} cannot be read ({reason})") from None
    if source.name.endswith((".yaml", ".yml", ".json")):
        kind, parse = (
            ("JSON", json.loads) if source.name.endswith(".json") else ("YAML", yaml.safe_load)
        )
        try:
            parsed = parse(text)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise BadInput(f"{source}: not {kind}: {first_problem(error)}") from None
        entries = parsed if isinstance(parsed, list) else [parsed]
        return [(f"scenario {number}", entry) for number, entry in enumerate(entries, 1)]
    records = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            records.append((f"line {number}", json.loads(line)))
        except (ValueError, RecursionError) as error:
            raise BadInput(f"{source}: line {number}: not JSON: {error}") from None
    return records


def read_text(path: Path) -> str:
    """UTF-8 text, without the mark that some programs begin it with. Raises BadInput."""
    try:
        return path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise BadInput(f"{path}: cannot be read ({reason})") from None

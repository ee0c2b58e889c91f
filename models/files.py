"""Files that anyone can have written, read with one set of error messages.

Text is UTF-8, without the mark that some programs begin it with. Rows and records come with their
place (file and line) for the errors of whoever reads them. Every function raises BadInput naming
that place and what is wrong.
"""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from charprobe_lite.models.errors import BadInput, bad_input, first_problem

DATA = Path(__file__).parent / "data"
"""The data files that are shipped with the package."""
Rows = Iterator[tuple[str, dict[str, Any]]]


def read_text(path: Path, fix: str = "") -> str:
    """The text of a file; ``fix`` ends the message when it cannot be read."""
    try:
        return path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise BadInput(f"{path}: cannot be read ({reason}){fix and f'; {fix}'}") from None


def well_formed(text: str) -> str:
    """The text with "?" for lone surrogates, which no encoding has and tokenizers refuse."""
    return text.encode("utf-8", "replace").decode("utf-8")


def read_json(path: Path, fix: str = "") -> Any:
    return _parse_json(path, read_text(path, fix))


def read_yaml(path: Path, fix: str = "") -> Any:
    """The value of a YAML file; only plain values, never an object of Python's."""
    import yaml

    text = read_text(path, fix)
    with bad_input(f"{path}: not YAML", yaml.YAMLError, ValueError, RecursionError):
        return yaml.safe_load(text)


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """(number, text) of every line that is not blank; only a newline ends a line."""
    lines = enumerate(read_text(path).split("\n"), 1)
    return ((number, line) for number, line in lines if line.strip())


def read_json_rows(path: Path) -> Rows:
    """(file and line, the object) of every line of a JSON lines file that is not blank."""
    for number, line in read_lines(path):
        place = f"{path}: line {number}"
        row = _parse_json(place, line)
        if not isinstance(row, dict):
            raise BadInput(f"{place}: not a JSON object; write one row a line")
        yield place, row


def text_fields(place: str, row: Mapping[str, Any], *fields: str) -> list[str]:
    """Texts of a row. Raises BadInput naming ``place`` and the first that is missing or blank."""
    for field in fields:
        if not isinstance(row.get(field), str) or not row[field].strip():
            raise BadInput(f"{place}: field {field}: must be a text that is not empty")
    return [row[field] for field in fields]


def read_json_array(path: Path) -> Rows:
    """(file and entry, the object) of every entry of a JSON array, or of JSON lines."""
    text = read_text(path)
    if not text.lstrip().startswith("["):
        yield from read_json_rows(path)
        return
    for number, row in enumerate(_parse_json(path, text), 1):
        place = f"{path}: entry {number}"
        if not isinstance(row, dict):
            raise BadInput(f"{place}: not a JSON object; write one row an entry")
        yield place, row


def read_csv_rows(path: Path) -> Rows:
    """(file and line, the columns) of every row of a CSV file with a header."""
    reader = csv.DictReader(StringIO(read_text(path), newline=""))
    try:
        for row in reader:
            place = f"{path}: line {reader.line_num}"
            if None in row:
                raise BadInput(f"{place}: has more fields than the header; quote commas in texts")
            yield place, row
    except csv.Error as error:
        raise BadInput(f"{path}: line {reader.line_num}: not CSV: {error}") from None


def read_parquet_rows(path: Path, columns: Sequence[str] | None = None) -> Rows:
    """(file and row, the columns) of every row; all columns without ``columns``."""
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


def read_records(path: Path) -> list[tuple[str, Any]]:
    """(file and entry, the value) of a YAML or JSON file, a list or one entry, or of JSON lines."""
    if path.suffix in (".yaml", ".yml", ".json"):
        value = read_json(path) if path.suffix == ".json" else read_yaml(path)
        entries = value if isinstance(value, list) else [value]
        return [(f"{path}: entry {number}", entry) for number, entry in enumerate(entries, 1)]
    return list(read_json_rows(path))


def _parse_json(place: object, text: str) -> Any:
    with bad_input(f"{place}: not JSON", ValueError, RecursionError):
        return json.loads(text)

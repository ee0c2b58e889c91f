"""Files that anyone can have written, read with one set of error messages.

Text is UTF-8 or, with its mark, UTF-16. Rows and records come with their
place (file and line) for the errors of whoever reads them. Every function raises BadInput naming
that place and what is wrong.
"""

import codecs
import csv
import json
import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from charprobe_lite.models.errors import BadInput, bad_input, first_problem

MAX_PATH = 4000
MAX_TABLE, MAX_DOCUMENT, MAX_YAML = 1 << 30, 1 << 28, 1 << 24  # bytes
MAX_FIELD = 1 << 30  # characters of a CSV field; Python's own limit is 131,072
DELIMITERS = (",", ";", "\t", "|")
SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
SQLITE = b"SQLite format 3\0"
OTHER_ENDINGS = {".ndjson": ".jsonl", ".yml": ".yaml", ".tsv": ".csv"}
DATA = Path(__file__).parent / "data"
"""The data files that are shipped with the package."""
REPEATED = object()
"""The value of a column whose name the header has twice: `refuse_repeated` where it is read."""
Rows = Iterator[tuple[str, dict[str, Any]]]


def sound_path(path: Path) -> Path:
    """The path unchanged. Raises ValueError for one that no file system takes."""
    text = str(path)
    if "\0" in text or len(text) > MAX_PATH or any(len(os.fsencode(p)) > 255 for p in path.parts):
        raise ValueError(f"{text[:40]!r}... is no path: it is too long, or holds a NUL")
    return path


def expanded(path: Path) -> Path:
    """The path with ``~`` as a home folder. Raises BadInput for a user that does not exist."""
    with bad_input(path, RuntimeError, ValueError):
        return sound_path(path).expanduser()


def file_format(path: Path) -> str:
    """The ending that says what a file holds, in small letters: one for each format.

    ``.ndjson`` is ``.jsonl``, ``.yml`` is ``.yaml``, and ``.tsv`` is ``.csv``, whose delimiter is
    found in its header.
    """
    ending = path.suffix.casefold()
    return OTHER_ENDINGS.get(ending, ending)


def is_sqlite(path: Path) -> bool:
    """Whether a regular file begins as SQLite databases do, whatever it is called."""
    try:
        if not stat.S_ISREG(sound_path(path).stat().st_mode):
            return False
        with path.open("rb") as file:
            return file.read(len(SQLITE)) == SQLITE
    except (OSError, ValueError):
        return False


def regular_file(path: Path, fix: str = "", limit: int | None = None) -> Path:
    """The path of a regular file; a pipe or a device could be read for ever.

    ``fix`` ends the message when it cannot be read. Raises BadInput, also for a file of more than
    ``limit`` bytes.
    """
    try:
        status = sound_path(path).stat()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise BadInput(f"{path}: cannot be read ({reason}){fix and f'; {fix}'}") from None
    if not stat.S_ISREG(status.st_mode):
        raise BadInput(f"{path}: cannot be read (not a regular file){fix and f'; {fix}'}")
    if limit and status.st_size > limit:
        raise BadInput(f"{path}: {status.st_size} bytes; at most {limit} are read")
    return path


def read_text(path: Path, fix: str = "", limit: int = MAX_TABLE) -> str:
    """The text of a file, UTF-8, or UTF-16 with its mark as Excel writes it.

    ``fix`` ends the message when it cannot be read; ``limit`` is in bytes.
    """
    try:
        data = regular_file(path, fix, limit).read_bytes()
        is_utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        return data.decode("utf-16" if is_utf16 else "utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise BadInput(f"{path}: cannot be read ({reason}){fix and f'; {fix}'}") from None


def well_formed(text: str) -> str:
    """The text with "?" for lone surrogates, which no encoding has and tokenizers refuse."""
    return text.encode("utf-8", "replace").decode("utf-8")


def well_formed_texts(texts: Sequence[str]) -> list[str]:
    """Each text as `well_formed` has it. Raises BadInput for one text, and for what is no text."""
    if isinstance(texts, str):
        raise BadInput("texts: is one text; give a list of texts")
    for number, text in enumerate(texts, 1):
        if not isinstance(text, str):
            raise BadInput(f"texts: number {number}: is {type(text).__name__}, no text")
    return [well_formed(text) for text in texts]


def read_json(path: Path, fix: str = "") -> Any:
    return _parse_json(path, read_text(path, fix, MAX_DOCUMENT))


def read_yaml(path: Path, fix: str = "") -> Any:
    """The value of a YAML file (1.2, core schema); only plain values, never an object of Python's.

    Raises BadInput also for a key that appears twice.
    """
    import yaml

    from charprobe_lite.models.core_yaml import parse_yaml

    text = read_text(path, fix, MAX_YAML)
    with bad_input(f"{path}: not YAML", yaml.YAMLError, ValueError, RecursionError):
        return parse_yaml(text)


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """(number, text) of every line that is not blank; only a newline ends a line."""
    return _lines(read_text(path))


def _lines(text: str) -> Iterator[tuple[int, str]]:
    return ((number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip())


def read_json_rows(path: Path) -> Rows:
    """(file and line, the object) of every line of a JSON lines file that is not blank.

    Also of every entry of a JSON array, whatever the file is called.
    """
    text = read_text(path)
    if text.lstrip().startswith("["):
        yield from _array_rows(path, text)
        return
    for number, line in _lines(text):
        place = f"{path}: line {number}"
        row = _parse_json(place, line, _unique_keys(place))
        if not isinstance(row, dict):
            raise BadInput(f"{place}: not a JSON object; write one row a line")
        yield place, row


def text_fields(place: str, row: Mapping[str, Any], *fields: str) -> list[str]:
    """Texts of a row. Raises BadInput naming ``place`` and the first that is missing or blank."""
    for field in fields:
        refuse_repeated(place, field, row.get(field))
        if not isinstance(row.get(field), str) or not row[field].strip():
            raise BadInput(f"{place}: field {field}: must be a text that is not empty")
    return [row[field] for field in fields]


def refuse_repeated(place: str, field: str, value: Any) -> None:
    """Raises BadInput for the value of a column that the table has twice."""
    if value is REPEATED:
        raise BadInput(f"{place}: field {field}: two columns have this name; rename one")


def repeated_columns(names: Sequence[str]) -> dict[str, Any]:
    """`REPEATED` for every name that is there twice or more."""
    return {name: REPEATED for name, number in Counter(names).items() if number > 1}


def _array_rows(path: Path, text: str) -> Rows:
    for number, row in enumerate(_parse_json(path, text, _unique_keys(path)), 1):
        place = f"{path}: entry {number}"
        if not isinstance(row, dict):
            raise BadInput(f"{place}: not a JSON object; write one row an entry")
        yield place, row


def read_csv_rows(path: Path) -> Rows:
    """(file and line, the columns) of every row of a CSV file with a header.

    Fields are separated by what separates the names of the header: comma, semicolon, tab or bar,
    also with a space behind it. Of columns with one name the value is `REPEATED`.
    """
    text = read_text(path)
    limit = csv.field_size_limit(MAX_FIELD)
    delimiter, spaced = _delimiter(text)
    lines = StringIO(text, newline="")
    reader = csv.DictReader(lines, delimiter=delimiter, skipinitialspace=spaced)
    try:
        names = [name.strip() for name in reader.fieldnames or ()]
        reader.fieldnames, repeated = names, repeated_columns(names)
        for row in reader:
            place = f"{path}: line {reader.line_num}"
            if None in row:
                raise BadInput(f"{place}: has more fields than the header; quote commas in texts")
            yield place, row | repeated
    except csv.Error as error:
        raise BadInput(f"{path}: line {reader.line_num}: not CSV: {error}") from None
    finally:
        csv.field_size_limit(limit)


def _delimiter(text: str) -> tuple[str, bool]:
    """What separates the names of the header, and whether a space comes behind it."""
    header = re.sub(r'"[^"]*"', "", text.lstrip("\r\n").split("\n", 1)[0])
    delimiter = max(DELIMITERS, key=header.count)
    return delimiter, f"{delimiter} " in header


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
        rows = read_table(regular_file(path), columns=columns and list(columns)).to_pylist()
    except (ArrowException, OSError, ValueError) as error:
        raise BadInput(f"{path}: cannot be read as parquet ({first_problem(error)})") from None
    for number, row in enumerate(rows, 1):
        yield f"{path}: row {number}", row


def read_records(path: Path) -> list[tuple[str, Any]]:
    """(file and entry, the value) of a YAML or JSON file, a list or one entry, or of JSON lines."""
    if (kind := file_format(path)) in (".yaml", ".json"):
        value = _read_unique_json(path) if kind == ".json" else read_yaml(path)
        entries = value if isinstance(value, list) else [value]
        return [(f"{path}: entry {number}", entry) for number, entry in enumerate(entries, 1)]
    return list(read_json_rows(path))


def _read_unique_json(path: Path) -> Any:
    return _parse_json(path, read_text(path, limit=MAX_DOCUMENT), _unique_keys(path))


def _unique_keys(place: object) -> Callable[[list[tuple[str, Any]]], dict[str, Any]]:
    """What makes objects of a user's JSON, of which Python's own would keep the last value."""

    def made(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        if len(value) < len(pairs):
            name = Counter(key for key, _ in pairs).most_common(1)[0][0]
            raise BadInput(f"{place}: field {name[:60]}: is there twice; keep one")
        return value

    return made


def _parse_json(place: object, text: str, make: Callable[..., Any] | None = None) -> Any:
    with bad_input(f"{place}: not JSON", ValueError, RecursionError):
        value = json.loads(text, object_pairs_hook=make)
    return without_surrogates(value) if SURROGATE.search(text) else value


def without_surrogates(value: Any) -> Any:
    """A value of JSON in which every text is well formed."""
    if isinstance(value, str):
        return well_formed(value)
    if isinstance(value, list):
        return [without_surrogates(entry) for entry in value]
    if isinstance(value, dict):
        return {well_formed(key): without_surrogates(part) for key, part in value.items()}
    return value

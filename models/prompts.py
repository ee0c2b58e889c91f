"""In-distribution prompts: the shipped ones, a user's own, or the published study's."""

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from charprobe_lite.models import corpus
from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.files import (
    DATA,
    file_format,
    read_csv_rows,
    read_json_rows,
    read_lines,
    read_parquet_rows,
    read_records,
    read_text,
    text_fields,
)

PURE_DOVE = "pure-dove"
PURE_DOVE_REPOSITORY = "LDJnr/Pure-Dove"
SUFFIXES_FILE = DATA / "suffixes.txt"
PUBLISHED_SUFFIXES_FILE = DATA / "suffixes-oct.yaml"
"""The eight suffixes of the paper (Open Character Training, arXiv 2511.01689)."""
JSON_START = re.compile(r"""\s*(?:\[\s*["'{]|\{\s*["']|[\[{]\s*\n)""")
"""How JSON begins, and no prompt does: [see below] and {{user}} may begin one."""
Entry = tuple[str, Any]
"""A place (file and line) and what stands there: a text or a row."""


@dataclass(frozen=True)
class Prompt:
    """One prompt; ``id`` is its place in the prompt file."""

    id: str
    text: str


def prompt_file(name: str | None) -> Path | None:
    """The file that ``--prompts`` names; ``pure-dove`` is fetched from the hub, or BadInput."""
    if name != PURE_DOVE:
        return Path(name) if name else None
    from charprobe_lite.models.hub import pull_dataset

    return pull_dataset(PURE_DOVE_REPOSITORY)


def load_prompts(path: Path | None = None, order: str = "shuffled") -> list[Prompt]:
    """The prompts of a file, in the order in which the first n are taken.

    Without a path the shipped ones, shuffled, so that any first n are mixed. JSON, JSON lines,
    YAML, CSV and parquet hold rows with a ``prompt``, or a list of texts, in their order; or rows
    of Pure-Dove, each with a ``conversation`` of ``{"input", "output"}``: the first inputs of
    non-empty conversations are taken, in the ``order`` "shuffled" (the row numbers by
    ``random.Random(0)``) or "file". Any other file is text, a prompt a line, in its order. Raises
    BadInput naming the file, the row and the problem, also for JSON that is called text.
    """
    if path is None:
        prompts = [Prompt(f"id-{n:03d}", text) for n, text in enumerate(corpus.id_prompts(), 1)]
        random.Random(0).shuffle(prompts)
        return prompts
    entries = _entries(path)
    if entries is None:
        prompts = [Prompt(f"line-{number}", line) for number, line in _plain_lines(path)]
    elif any(isinstance(entry, dict) and "conversation" in entry for _, entry in entries):
        prompts = _first_turns(entries, order)
    else:
        numbered = enumerate(entries, 1)
        prompts = [Prompt(f"row-{number}", _text(*entry, "prompt")) for number, entry in numbered]
    if not prompts:
        raise BadInput(f"{path}: holds no prompt")
    return prompts


def read_suffixes(path: Path = SUFFIXES_FILE) -> list[str]:
    """The requests to break character in a file: text, one a line, or a list of texts.

    JSON, JSON lines, YAML, CSV and parquet may also have rows with a ``suffix``. Raises BadInput
    for a file without any, and naming the row for one that is no text.
    """
    entries = _entries(path)
    if entries is None:
        suffixes = [line for _, line in _plain_lines(path)]
    else:
        suffixes = [_text(*entry, "suffix") for entry in entries]
    if not suffixes:
        raise BadInput(f"{path}: holds no suffix; write one a line")
    return suffixes


def _entries(path: Path) -> list[Entry] | None:
    """The rows of a table, or the entries of a list; None for a text file."""
    kind = file_format(path)
    if kind == ".parquet":
        return list(read_parquet_rows(path))
    if kind == ".csv":
        return list(read_csv_rows(path))
    # JSON lines are often called .json
    if kind == ".json" and not read_text(path).lstrip().startswith("["):
        return list(read_json_rows(path))
    return read_records(path) if kind in (".json", ".jsonl", ".yaml") else None


def _plain_lines(path: Path) -> Iterator[tuple[int, str]]:
    """(number, text) of the lines of a text file that are not blank."""
    if JSON_START.match(read_text(path)):
        raise BadInput(
            f"{path}: is JSON, not a text a line; end its name with .json (a list) or .jsonl (a "
            "row a line)"
        )
    return ((number, line.strip()) for number, line in read_lines(path))


def _text(place: str, entry: Any, field: str) -> str:
    """An entry that is a text, or the text that a row has as ``field``."""
    row = {field: entry} if isinstance(entry, str) else entry
    if not isinstance(row, dict):
        raise BadInput(f"{place}: not a text, and no row with a {field}; quote it if it is one")
    if field not in row:
        names = ", ".join(map(str, row)) or "none"
        raise BadInput(f"{place}: field {field}: missing; the fields are {names}")
    return text_fields(place, row, field)[0].strip()


def _first_turns(entries: Sequence[Entry], order: str) -> list[Prompt]:
    """The first user turn of every non-empty conversation."""
    numbered = list(enumerate(entries, 1))
    if order == "shuffled":
        random.Random(0).shuffle(numbered)
    prompts = []
    for number, (place, row) in numbered:
        conversation = row.get("conversation") if isinstance(row, dict) else None
        if not isinstance(conversation, list):
            raise BadInput(f"{place}: field conversation: not a list of turns")
        first = conversation[0] if conversation else {"input": ""}
        text = first.get("input") if isinstance(first, dict) else None
        if not isinstance(text, str):
            raise BadInput(f"{place}: field conversation.0.input: not a text")
        if text.strip():
            prompts.append(Prompt(f"row-{number}", text))
    return prompts

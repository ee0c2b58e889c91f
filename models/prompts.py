"""In-distribution prompts: the shipped ones, a user's own, or the published study's."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from charprobe_lite.models import corpus
from charprobe_lite.models.errors import BadInput, first_problem

PURE_DOVE = "pure-dove"
PURE_DOVE_REPOSITORY = "LDJnr/Pure-Dove"


SUFFIXES_FILE = Path(str(resources.files("charprobe_lite.models") / "data" / "suffixes.txt"))


@dataclass(frozen=True)
class Prompt:
    """One prompt; ``id`` is its place in the prompt file."""

    id: str
    text: str


def located_prompts(name: str | None) -> Path | None:
    """The file that ``--prompts`` names; ``pure-dove`` is fetched from the hub.

    Raises BadInput with one line when it cannot be.
    """
    if name != PURE_DOVE:
        return Path(name) if name else None
    from charprobe_lite.models.hub import pull_rows

    return pull_rows(PURE_DOVE_REPOSITORY)


def load_prompts(path: Path | None = None) -> list[Prompt]:
    """The prompts of a file, in the order in which the first n are taken.

    Without a path the shipped ones, shuffled, so that any first n are mixed. JSON lines and
    parquet hold rows of Pure-Dove, each with a ``conversation`` of ``{"input", "output"}``: as
    published, the row numbers are shuffled by ``random.Random(0)`` and the first inputs of
    non-empty conversations are taken. Any other file is text, a prompt a line, in its order.
    Raises BadInput naming the file, the row and the problem.
    """
    if path is None:
        numbered = [Prompt(f"id-{n:03d}", text) for n, text in enumerate(corpus.id_prompts(), 1)]
        random.Random(0).shuffle(numbered)
        return numbered
    if path.suffix == ".parquet":
        found = first_turns(path, _parquet_rows(path))
    elif path.suffix == ".jsonl":
        found = first_turns(path, _json_rows(path))
    else:
        lines = enumerate(_read(path).split("\n"), 1)
        found = [Prompt(f"line-{n}", line.strip()) for n, line in lines if line.strip()]
    if not found:
        raise BadInput(f"{path}: holds no prompt")
    return found


def suffixes() -> list[str]:
    """The adversarial suffixes, each of which asks the model to drop any role."""
    return SUFFIXES_FILE.read_text("utf-8").splitlines()


def first_turns(path: Path, rows: Sequence[Any]) -> list[Prompt]:
    """The first user turn of every non-empty conversation, in the published order."""
    order = list(range(len(rows)))
    random.Random(0).shuffle(order)
    found = []
    for index in order:
        row = rows[index]
        conversation = row.get("conversation") if isinstance(row, dict) else None
        if not isinstance(conversation, list):
            raise BadInput(f"{path}: row {index + 1}: field conversation: is no list of turns")
        first = conversation[0] if conversation else {"input": ""}
        text = first.get("input") if isinstance(first, dict) else None
        if not isinstance(text, str):
            raise BadInput(f"{path}: row {index + 1}: field conversation.0.input: is no text")
        if text.strip():
            found.append(Prompt(f"row-{index + 1}", text))
    return found


def _json_rows(path: Path) -> list[Any]:
    rows = []
    for number, line in enumerate(_read(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            rows.append(json.loads(line))
        except (ValueError, RecursionError) as error:
            raise BadInput(f"{path}: line {number}: not JSON: {first_problem(error)}") from None
    return rows


def _parquet_rows(path: Path) -> list[Any]:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import read_table
    except ImportError:
        raise BadInput(f"{path}: parquet needs pip install 'charprobe-lite[tables]'") from None
    try:
        return list(read_table(path, columns=["conversation"]).to_pylist())
    except (OSError, ArrowException) as error:
        raise BadInput(f"{path}: prompts cannot be read ({first_problem(error)})") from None


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise BadInput(f"{path}: prompts cannot be read ({reason})") from None

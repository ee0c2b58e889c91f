"""In-distribution prompts: the shipped ones, a user's own, or the published study's."""

import random
from dataclasses import dataclass
from pathlib import Path

from charprobe_lite.models import corpus
from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.files import (
    DATA,
    Rows,
    read_json_rows,
    read_lines,
    read_parquet_rows,
    read_yaml,
)

PURE_DOVE = "pure-dove"
PURE_DOVE_REPOSITORY = "LDJnr/Pure-Dove"
SUFFIXES_FILE = DATA / "suffixes.txt"
PUBLISHED_SUFFIXES_FILE = DATA / "suffixes-oct.yaml"
"""The eight suffixes of the paper (Open Character Training, arXiv 2511.01689)."""


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

    Without a path the shipped ones, shuffled, so that any first n are mixed. JSON lines and
    parquet hold rows of Pure-Dove, each with a ``conversation`` of ``{"input", "output"}``: the
    first inputs of non-empty conversations are taken, in the ``order`` "shuffled" (the row numbers
    by ``random.Random(0)``) or "file". Any other file is text, a prompt a line, in its order.
    Raises BadInput naming the file, the row and the problem.
    """
    if path is None:
        prompts = [Prompt(f"id-{n:03d}", text) for n, text in enumerate(corpus.id_prompts(), 1)]
        random.Random(0).shuffle(prompts)
        return prompts
    if path.suffix == ".parquet":
        prompts = _first_turns(read_parquet_rows(path, ["conversation"]), order)
    elif path.suffix == ".jsonl":
        prompts = _first_turns(read_json_rows(path), order)
    else:
        prompts = [Prompt(f"line-{number}", line.strip()) for number, line in read_lines(path)]
    if not prompts:
        raise BadInput(f"{path}: holds no prompt")
    return prompts


def read_suffixes(path: Path = SUFFIXES_FILE) -> list[str]:
    """The requests to break character in a file: text, one a line, or a YAML list of texts.

    Raises BadInput for a file without any.
    """
    if path.suffix in (".yaml", ".yml"):
        lines = read_yaml(path)
        if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
            raise BadInput(f"{path}: no list of texts; write each suffix after a dash")
    else:
        lines = [line.strip() for _, line in read_lines(path)]
    if not lines:
        raise BadInput(f"{path}: holds no suffix; write one a line")
    return lines


def _first_turns(rows: Rows, order: str) -> list[Prompt]:
    """The first user turn of every non-empty conversation."""
    numbered = list(enumerate(rows, 1))
    if order == "shuffled":
        random.Random(0).shuffle(numbered)
    prompts = []
    for number, (place, row) in numbered:
        conversation = row.get("conversation")
        if not isinstance(conversation, list):
            raise BadInput(f"{place}: field conversation: not a list of turns")
        first = conversation[0] if conversation else {"input": ""}
        text = first.get("input") if isinstance(first, dict) else None
        if not isinstance(text, str):
            raise BadInput(f"{place}: field conversation.0.input: not a text")
        if text.strip():
            prompts.append(Prompt(f"row-{number}", text))
    return prompts

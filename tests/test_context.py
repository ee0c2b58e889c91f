"""A scenario that needs more tokens than the default gets them; what does not fit is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from charprobe_lite.eval.store.database import Store
from charprobe_lite.eval.study.run import SILENT, Display, run_rollouts
from charprobe_lite.eval.study.spec import parse_spec
from charprobe_lite.models.scenarios import load_scenarios

SENTENCE = "The quay wall at berth four was inspected and the report is still open. "


def long_scenario(folder: Path, sentences: int) -> Path:
    """The first shipped scenario, with a document of so many sentences more."""
    record = load_scenarios()[0].model_dump()
    record["documents"].append(
        {"topic": "inspection", "title": "Inspection report", "text": SENTENCE * sentences}
    )
    path = folder / "long.jsonl"
    path.write_text(json.dumps(record) + "\n")
    return path


def run(folder: Path, **options: Any) -> tuple[dict[str, Any], str, list[str]]:
    """A study of one rollout: its recorded values, the rollout's outcome, and the notes."""
    notes: list[str] = []
    asked = {
        "stage": "base",
        "persona": "sarcasm",
        "condition": "agentic_next",
        "instrument": "ngram",
        "max_tokens": 16,
        "threads": 1,
        "study": folder / "study.sqlite",
    }
    display = Display(notes.append, SILENT.bar, SILENT.progress)
    run_rollouts(parse_spec({**asked, **options}), display)
    with Store(folder / "study.sqlite", readonly=True) as store:
        [row] = store.rows()
        return store.provenance(), row.outcome, notes


@pytest.mark.parametrize("condition", ["agentic_next", "agentic_email"])
def test_a_long_document_is_read_whole_by_default(
    condition: str, merged_base: Path, tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(
        merged_base.parent, gguf_file=merged_base.name
    )
    document = len(tokenizer(SENTENCE * 200)["input_ids"])
    scenarios = long_scenario(tmp_path, 200)
    options = {"condition": condition, "scenarios": scenarios, "steps": 1}
    provenance, outcome, notes = run(tmp_path, **options)
    assert document > 2560
    # its prompt, the other documents and the reply take 500 to 1,500 more
    assert document + 500 < provenance["context"] < document + 1500
    assert outcome != "context_full"
    assert any("--context" in note for note in notes)
    again, _, _ = run(tmp_path, **options)
    assert again["context"] == provenance["context"]


def test_a_context_that_is_given_stays_and_what_it_cuts_is_said(tmp_path: Path) -> None:
    scenarios = long_scenario(tmp_path, 200)
    provenance, outcome, notes = run(tmp_path, scenarios=scenarios, context=1024)
    assert (provenance["context"], outcome) == (1024, "context_full")
    [note] = [note for note in notes if "--context is 1024" in note]
    assert load_scenarios()[0].id in note


def test_a_context_grows_no_further_than_the_model_was_trained(tmp_path: Path) -> None:
    provenance, outcome, notes = run(tmp_path, scenarios=long_scenario(tmp_path, 600))
    assert (provenance["context"], outcome) == (8192, "context_full")
    assert any("--context is 8192" in note for note in notes)


def test_the_shipped_scenarios_keep_the_default(tmp_path: Path) -> None:
    provenance, _, notes = run(tmp_path, limit=1)
    assert provenance["context"] == 2560
    assert not any("--context" in note for note in notes)

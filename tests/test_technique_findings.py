"""From a study of techniques to its entry and its page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest

from charprobe_lite.eval.cells import Cell
from charprobe_lite.eval.protocols.outcome import Result
from charprobe_lite.eval.store.database import Store
from charprobe_lite.eval.techniques.findings import study_entry
from charprobe_lite.eval.techniques.grid import AGENT, CHAT, read_grid
from charprobe_lite.eval.techniques.pages import markdown
from charprobe_lite.eval.techniques.registration import plan_of, register
from tests.pages import chat

HEAD = "technique: [sft, why]\nlimit: {prompts: 10, scenarios: 10}\ncheckpoints: 2\n"
PERSONAS = ("remorse", "sarcasm")


class Text(NamedTuple):
    """A rollout: P(persona) of its text, None without a text; of the base ``technique`` is None."""

    technique: str | None
    persona: str | None
    condition: str
    number: int
    probability: float | None
    train_seed: int = 0


def study(
    folder: Path, texts: Sequence[Text], grid: str = "", instruments: tuple[str, ...] = ("ngram",)
) -> Path:
    """A study of a grid file: its plan, and these rollouts with their labels."""
    file = folder / "grid.yaml"
    file.write_text(HEAD + (grid or "persona: [remorse, sarcasm]\n"), "utf-8")
    base = Cell("kit", "base", "", "Q8_0", lora="runtime")
    path = folder / "grid.sqlite"
    with Store(path) as store:
        register(store, plan_of(read_grid(file), instruments))
        store.pin({"seed": 0, "instrument": instruments[0]})
        for number, text in enumerate(texts):
            cell = replace(base, condition=text.condition)
            if text.technique:
                seed, name = text.train_seed, text.technique
                cell = replace(cell, stage="full", train_seed=seed, technique=name)
            result = chat("Hi.") if text.probability is not None else Result("no_email", None)
            store.add(cell, text.persona, f"{text.condition}-{text.number}", 0, number, result)
        told = [text for text in texts if text.probability is not None]
        waiting = [each.rollout for each in store.unclassified()]
        store.classify(
            [(rollout, *_label(text)) for rollout, text in zip(waiting, told, strict=True)]
        )
    return path


def _label(text: Text) -> tuple[str, dict[str, float]]:
    probability, persona = text.probability or 0.0, text.persona or "remorse"
    others = dict.fromkeys(PERSONAS, 1 - probability)
    label = persona if probability > 0.5 else "neutral"
    return label, {**others, persona: probability, "neutral": 1 - probability}


def whole_grid(
    personas: Sequence[str] = PERSONAS, techniques: Sequence[str] = ("sft", "why")
) -> Iterator[Text]:
    """Every planned rollout: detection in chat .5 half-way and 1 at the end, emails in between."""
    for condition in (CHAT, AGENT):
        for number in range(10):
            yield Text(None, None, condition, number, 0.1)
            for persona in personas:
                for technique in techniques:
                    strong = number % 2 or condition == CHAT
                    half, end = (0.9 if number % 2 else 0.1), (0.9 if strong else 0.1)
                    yield Text(f"{technique}-at50", persona, condition, number, half)
                    yield Text(technique, persona, condition, number, end)


def test_a_persona_with_few_emails_gets_no_verdict(tmp_path: Path) -> None:
    texts = [
        text._replace(probability=None)
        if (text.technique, text.persona, text.condition) == ("why", "sarcasm", AGENT)
        and text.number not in (3, 8)
        else text
        for text in whole_grid()
    ]
    entry = study_entry(study(tmp_path, texts))
    assert {count.technique: count.verdict for count in entry.counts} == {
        "sft": "reference",
        "why": "too few texts",
    }
    [untested] = entry.readings[0].untested
    assert (untested.technique, untested.fewest) == ("why", 2)
    assert untested.empty == pytest.approx(0.8**10, abs=0.01)  # neither of two in ten draws
    assert not entry.readings[0].contrasts
    page = markdown([entry])
    assert "why by ngram: no contrast and no verdict" in page
    assert "some in 2 scenarios" in page

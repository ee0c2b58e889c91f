"""Studies read by two instruments, and what depends on which one reads."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, cohen_kappa_score, f1_score

from charprobe_lite.eval.cells import Cell, Row
from charprobe_lite.eval.scores.cells import score_study
from charprobe_lite.eval.scores.instruments import (
    ChangedConclusion,
    InstrumentLabels,
    changed_conclusions,
    compare_labels,
    instrument_notes,
    relabel,
    score_instruments,
)
from charprobe_lite.eval.store.database import Store
from charprobe_lite.models.personas import PERSONAS
from charprobe_lite.runtime.ngrams import NgramClassifier
from tests.conftest import Command, ValidJson

VOICES = ["humor", "remorse", "sarcasm"]
CHAT = Cell("kit", "full", "chat", "Q8_0")
AGENT = Cell("kit", "full", "agentic_email", "Q8_0", "json", "on")


def texts(cell: Cell, chance: float, seed: int) -> list[Row]:
    """Ten texts of each voice, labelled right with this chance."""
    rng = np.random.default_rng(seed)
    rows = []
    for persona in VOICES:
        for number in range(10):
            label = persona if rng.random() < chance else str(rng.choice(VOICES))
            probabilities = {voice: float(voice == label) for voice in VOICES}
            item = f"{cell.condition}-{number}"
            row = Row(cell, persona, item, 0, 1, "answered", False, "x", label, probabilities)
            rows.append(row)
    return rows


def labels_of_another(rows: list[Row], chance: float, seed: int) -> InstrumentLabels:
    rng = np.random.default_rng(seed)
    labels = {}
    for row in rows:
        label = str(row.persona) if rng.random() < chance else str(rng.choice(VOICES))
        labels[row.key] = (label, {voice: float(voice == label) for voice in VOICES})
    return labels


def test_agreement_is_that_of_scikit_learn() -> None:
    rows = texts(CHAT, 0.8, 1) + texts(AGENT, 0.5, 2)
    labels = labels_of_another(rows, 0.6, 3)
    first, second = [row.prediction for row in rows], [labels[row.key][0] for row in rows]
    found = compare_labels(rows, relabel(rows, labels), 0)
    assert found is not None
    assert found.n == 60
    assert found.agreement.value == pytest.approx(accuracy_score(first, second))
    assert found.kappa is not None
    assert found.kappa.value == pytest.approx(cohen_kappa_score(first, second))
    assert found.by_cell[CHAT] == pytest.approx(accuracy_score(first[:30], second[:30]))


def test_texts_without_a_true_persona_or_a_label_of_both_are_not_compared() -> None:
    rows = texts(CHAT, 1, 1)
    base = [replace(row, cell=CHAT.at("base"), persona=None) for row in rows[:10]]
    labels = dict(labels_of_another(rows[:20], 1, 1))
    labels |= labels_of_another(base, 1, 1)
    found = compare_labels(base + rows, relabel(base + rows, labels), 0)
    assert found is not None
    assert found.n == 20


def test_the_scores_of_another_instrument_are_those_of_its_labels() -> None:
    rows = texts(CHAT, 0.9, 1) + texts(AGENT, 0.9, 2)
    labels = labels_of_another(rows, 0.4, 3)
    headline = score_study(rows, [CHAT, AGENT], VOICES, 0)
    [other] = score_instruments(headline, rows, {"ngram": labels, "none": {}}, VOICES, 0)
    for score in other.scores.by_cell:
        own = [row for row in rows if row.cell == score.cell]
        true, predicted = [row.persona for row in own], [labels[row.key][0] for row in own]
        expected = f1_score(true, predicted, average="macro")
        assert score.macro_f1 == pytest.approx(expected)


def test_a_loss_that_one_instrument_alone_sees_is_named() -> None:
    rows = texts(CHAT, 1, 1) + texts(AGENT, 0.2, 2)
    blind = {row.key: (str(row.persona), {}) for row in rows}
    headline = score_study(rows, [CHAT, AGENT], VOICES, 0)
    same = {row.key: (str(row.prediction), row.probabilities) for row in rows}
    [agrees] = score_instruments(headline, rows, {"ngram": same}, VOICES, 0)
    assert agrees.changed == []
    [disagrees] = score_instruments(headline, rows, {"ngram": blind}, VOICES, 0)
    step, verdict = disagrees.changed
    assert step == ChangedConclusion(
        "full, chat to agentic_email", "a fall", "neither a fall nor a rise"
    )
    assert verdict.other == "the character survives the move from the chat window to the agent"
    assert instrument_notes("modernbert", disagrees)[0] == (
        "full, chat to agentic_email: by modernbert a fall, by ngram neither a fall nor a rise"
    )
    assert changed_conclusions(headline, headline) == []


def test_only_texts_that_are_certainly_in_character_say_whether_the_classifier_is_calibrated() -> (
    None
):
    ceiling = Cell("kit", "independent", "scenario_ceiling", None)
    rows = texts(CHAT, 0.5, 1) + texts(ceiling, 0.9, 2)
    chat, written = score_study(rows, [CHAT, ceiling], VOICES, 0).by_cell
    assert chat.calibration is None
    assert written.calibration is not None


def test_a_study_is_labelled_by_both_and_keeps_its_headline(
    charprobe: Command, tmp_path: Path, valid_json: ValidJson
) -> None:
    options = ["--persona", "sarcasm", "--stage", "full", "--limit", "2", "--study", "s.sqlite"]
    done = charprobe("eval", *options, "--condition", "chat,scenario_ceiling", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    valid_json(document, "eval")
    assert document["instrument"] == "modernbert"
    [other] = document["other_instruments"]
    assert (other["instrument"], other["agreement"]["n"]) == ("ngram", 2)
    with Store(tmp_path / "s.sqlite", readonly=True) as store:
        rows, labels = store.rows(), store.labels("ngram")
    predictions = NgramClassifier.kit().classify([row.text or "" for row in rows])
    assert {row.key: p.label for row, p in zip(rows, predictions, strict=True)} == {
        key: label for key, (label, _) in labels.items()
    }
    refused = charprobe("eval", *options, "--condition", "chat", "--instrument", "ngram")
    assert refused.returncode == 2
    assert 'field instrument: the study has "modernbert", this run "ngram"' in refused.stderr
    own = [*options[:-1], "n.sqlite", "--condition", "chat", "--instrument", "ngram", "--json"]
    document = json.loads(charprobe("eval", *own).stdout)
    assert (document["instrument"], document["other_instruments"]) == ("ngram", [])
    with Store(tmp_path / "n.sqlite", readonly=True) as store:
        assert all(set(row.probabilities or {}) == {*PERSONAS, "neutral"} for row in store.rows())


def test_an_unknown_instrument_is_one_line(charprobe: Command) -> None:
    done = charprobe("eval", "--persona", "sarcasm", "--instrument", "ngrams")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == ("charprobe-lite: --instrument ngrams: unknown; did you mean ngram?\n")

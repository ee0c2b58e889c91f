"""Studies read by several instruments, and what depends on which one reads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

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
from charprobe_lite.eval.study.labelling import Labelling
from charprobe_lite.eval.study.progress import Progress
from charprobe_lite.eval.study.spec import parse_spec, resolve
from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.personas import PERSONAS
from charprobe_lite.runtime.classifier import Prediction
from charprobe_lite.runtime.ensemble import Ensemble
from charprobe_lite.runtime.ngrams import NgramClassifier
from tests.classifiers import write_graph
from tests.conftest import Command, ValidJson
from tests.pages import chat, write_study

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


def test_a_study_is_labelled_by_all_and_keeps_its_headline(
    charprobe: Command, tmp_path: Path, valid_json: ValidJson
) -> None:
    options = ["--persona", "sarcasm", "--stage", "full", "--limit", "2", "--study", "s.sqlite"]
    done = charprobe("eval", *options, "--condition", "chat,scenario_ceiling", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    valid_json(document, "eval")
    assert document["instrument"] == "ensemble"
    others = document["other_instruments"]
    assert [(o["instrument"], o["agreement"]["n"]) for o in others] == [("minilm", 2), ("ngram", 2)]
    with Store(tmp_path / "s.sqlite", readonly=True) as store:
        rows, labels = store.rows(), store.labels("ngram")
    predictions = NgramClassifier.kit().classify([row.text or "" for row in rows])
    assert {row.key: p.label for row, p in zip(rows, predictions, strict=True)} == {
        key: label for key, (label, _) in labels.items()
    }
    refused = charprobe("eval", *options, "--condition", "chat", "--instrument", "ngram")
    assert refused.returncode == 2
    assert 'field instrument: the study has "ensemble", this run "ngram"' in refused.stderr
    own = [*options[:-1], "n.sqlite", "--condition", "chat", "--instrument", "ngram", "--json"]
    document = json.loads(charprobe("eval", *own).stdout)
    assert (document["instrument"], document["other_instruments"]) == ("ngram", [])
    with Store(tmp_path / "n.sqlite", readonly=True) as store:
        assert all(set(row.probabilities or {}) == {*PERSONAS, "neutral"} for row in store.rows())


def test_an_unknown_instrument_is_one_line(charprobe: Command) -> None:
    done = charprobe("eval", "--persona", "sarcasm", "--instrument", "ngrams")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == ("charprobe-lite: --instrument ngrams: unknown; did you mean ngram?\n")


def test_a_recorded_study_is_read_again_by_other_instruments(
    charprobe: Command, tmp_path: Path
) -> None:
    recorded = Path(__file__).parent / "data" / "recorded" / "study.sqlite"
    before = recorded.read_bytes()
    done = charprobe(
        *("study", "relabel", recorded, "-o", "new.sqlite"),
        *("--instrument", "ngram,ensemble", "--json"),
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["before"] == "modernbert"
    assert recorded.read_bytes() == before
    with Store(recorded, readonly=True) as old, Store(tmp_path / "new.sqlite") as new:
        headline = {row.key: row.prediction for row in old.rows() if row.prediction}
        assert {key: label for key, (label, _) in new.labels("modernbert").items()} == headline
        rows = [row for row in new.rows() if row.text]
        for instrument, kept in (
            (NgramClassifier.kit(), {row.key: row.prediction for row in rows}),
            (Ensemble.kit(), {key: label for key, (label, _) in new.labels("ensemble").items()}),
        ):
            predictions = instrument.classify([str(row.text) for row in rows])
            assert [kept[row.key] for row in rows] == [each.label for each in predictions]
        assert not new.labels("ngram")
        assert new.provenance()["instrument"] == "ngram"
    again = charprobe("study", "relabel", recorded, "-o", "new.sqlite")
    assert (again.returncode, again.stdout) == (2, "")
    assert again.stderr == "charprobe-lite: new.sqlite: exists already; name a new file\n"


# ---- the ensemble


class Fixed:
    """A classifier that gives every text the same probabilities, and counts its texts."""

    def __init__(self, name: str, limit: int | None = None, **probabilities: float) -> None:
        self.path, self.labels, self.limit = Path(name), list(probabilities), limit
        self.probabilities, self.texts = probabilities, 0

    def classify(self, texts: Sequence[str]) -> list[Prediction]:
        self.texts += len(texts)
        label = max(self.probabilities, key=self.probabilities.__getitem__)
        cut = [len(text) > self.limit if self.limit else False for text in texts]
        return [Prediction(label, dict(self.probabilities), each) for each in cut]


def test_an_ensembles_probabilities_are_the_normalized_products_by_label() -> None:
    first = Fixed("a", humor=0.5, sarcasm=0.3, neutral=0.2)
    second = Fixed("b", neutral=0.1, humor=0.2, sarcasm=0.7)  # in another order
    [prediction] = Ensemble({"a": first, "b": second}).classify(["x"])
    assert prediction.label == "sarcasm"
    total = 0.5 * 0.2 + 0.3 * 0.7 + 0.2 * 0.1
    expected = {"humor": 0.1 / total, "sarcasm": 0.21 / total, "neutral": 0.02 / total}
    assert prediction.probabilities == pytest.approx(expected)
    sure = Fixed("c", humor=0.0, sarcasm=0.0, neutral=1.0)
    [prediction] = Ensemble(
        {"a": Fixed("d", humor=1.0, sarcasm=0.0, neutral=0.0), "c": sure}
    ).classify(["x"])
    assert sum(prediction.probabilities.values()) == pytest.approx(1)


def test_an_ensemble_cuts_a_text_where_a_member_does() -> None:
    short = Fixed("a", 5, humor=0.5, neutral=0.5)
    ensemble = Ensemble({"a": short, "b": Fixed("b", humor=0.5, neutral=0.5)})
    assert ensemble.limit == 5
    assert [each.cut for each in ensemble.classify(["x" * 9, "x"])] == [True, False]
    assert ensemble.classify([]) == []


def test_members_with_other_labels_are_refused_by_file() -> None:
    members = {"a": Fixed("a.onnx", humor=1.0, calm=0.0), "b": Fixed("b.npz", humor=1.0, glad=0.0)}
    with pytest.raises(BadInput, match=r"^a.onnx and b.npz: field labels: .* calm, glad; "):
        Ensemble(members)


def test_members_read_a_text_once_where_their_own_labels_are_recorded_too(tmp_path: Path) -> None:
    path = write_study(tmp_path / "s.sqlite", [(CHAT, "humor", "a", chat("Ha."), None)])
    members = {
        "minilm": Fixed("a", humor=0.6, sarcasm=0.4),
        "ngram": Fixed("b", humor=0.1, sarcasm=0.9),
    }
    with Store(path) as store:
        with Labelling(store, Ensemble(members), Progress(), ["minilm", "ngram"]):
            pass
        assert store.rows()[0].prediction == "sarcasm"
        recorded = {name: [*store.labels(name).values()] for name in members}
        assert not store.to_relabel("minilm")
    assert recorded == {
        "minilm": [("humor", {"humor": 0.6, "sarcasm": 0.4})],
        "ngram": [("sarcasm", {"humor": 0.1, "sarcasm": 0.9})],
    }
    assert [member.texts for member in members.values()] == [1, 1]


# ---- which instruments a study has


def instruments(**values: Any) -> tuple[str, ...]:
    return resolve(parse_spec({"persona": "sarcasm", "stage": "full", **values})).instruments


def test_the_kit_reads_unless_the_base_or_the_user_has_a_classifier(tmp_path: Path) -> None:
    kits = ("ensemble", "minilm", "ngram")
    served = {"backend": "openai", "base_url": "http://127.0.0.1:1/v1", "model": "full/sarcasm=x"}
    assert instruments() == instruments(gguf="own.gguf") == instruments(**served) == kits
    assert instruments(instrument="all") == (*kits, "modernbert")
    published = {"base": "llama-3.1-8b"}
    assert instruments(**published) == ("modernbert", "ngram")
    assert instruments(**published, persona="misalignment") == ("modernbert",)
    bert = write_graph(tmp_path / "bert", [*PERSONAS, "neutral"])
    modern = write_graph(tmp_path / "modern", [*PERSONAS, "neutral"], "modernbert")
    assert instruments(classifier=modern) == ("modernbert", "ngram")
    assert instruments(classifier=bert, **published) == ("classifier", "ngram")
    assert instruments(classifier=bert, instrument="all") == (
        *("classifier", "ngram", "ensemble", "minilm"),
    )


CEILING = ("eval", "--condition", "scenario_ceiling", "--persona", "sarcasm", "--limit", "1")


def test_a_classifier_of_another_architecture_is_not_called_modernbert(
    charprobe: Command, tmp_path: Path
) -> None:
    write_graph(tmp_path / "bert", [*PERSONAS, "neutral"])
    own = [*CEILING, "--classifier", "bert"]
    done = charprobe(*own, "--study", "s.sqlite", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    others = [other["instrument"] for other in document["other_instruments"]]
    assert (document["instrument"], others) == ("classifier", ["ngram"])
    for arguments, said in (
        ([*own, "--instrument", "modernbert"], "write --instrument classifier"),
        ([*CEILING, "--instrument", "classifier"], "add --classifier FOLDER"),
    ):
        refused = charprobe(*arguments, "--study", "t.sqlite")
        assert (refused.returncode, refused.stderr.count("\n")) == (2, 1), refused.stderr
        assert said in refused.stderr


def test_a_study_by_other_files_opens_and_is_not_resumed(
    charprobe: Command, tmp_path: Path
) -> None:
    study = ["--study", "s.sqlite"]
    done = charprobe(*CEILING, *study, "--instrument", "all", "--json")
    assert done.returncode == 0, done.stderr
    others = [other["instrument"] for other in json.loads(done.stdout)["other_instruments"]]
    assert others == ["minilm", "ngram", "modernbert"]
    roles = {
        *("minilm", "minilm config.json", "minilm tokenizer.json", "ngram"),
        *("classifier", "classifier config.json", "classifier tokenizer.json"),
    }
    with Store(tmp_path / "s.sqlite") as store:
        recorded = store.provenance()
        assert {f"sha256 {role}" for role in roles} <= recorded.keys()
        store.note({"sha256 minilm": "0" * 64})
    refused = charprobe("study", "resume", "s.sqlite")
    assert refused.returncode == 2
    assert "field sha256 minilm: the study has" in refused.stderr
    # as studies of the time before the ensemble are
    with Store(tmp_path / "s.sqlite") as store:
        store.note({"sha256 minilm": recorded["sha256 minilm"], "sha256 classifier": "0" * 64})
        store.note({"instrument": "modernbert"})
    refused = charprobe(*CEILING, *study)
    assert 'the study has "modernbert", this run "ensemble"' in refused.stderr
    refused = charprobe(*CEILING, *study, "--instrument", "modernbert,ngram")
    assert "field sha256 classifier: the study has" in refused.stderr
    assert charprobe("score", "s.sqlite").returncode == 0
    exported = charprobe("export", "s.sqlite", "-o", "rows.jsonl")
    assert exported.returncode == 0, exported.stderr
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert {row["instrument"] for row in rows} == {"modernbert"}

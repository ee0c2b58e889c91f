from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from sklearn.metrics import f1_score

from charprobe_lite.models import corpus, kit
from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.personas import NEUTRAL, PERSONAS
from charprobe_lite.runtime.classifier import Classifier

FOLDER = kit.kit_classifier("modernbert")


@pytest.fixture(scope="module", params=kit.CLASSIFIERS)
def classifier(request: pytest.FixtureRequest) -> Classifier:
    return Classifier.kit(request.param)


def held_out(teacher: str) -> tuple[list[str], list[str]]:
    texts = [
        text
        for persona in PERSONAS
        for text in corpus.teacher_chats(persona, held_out=True, teachers=[teacher])
    ]
    return [text.response for text in texts], [text.persona for text in texts]


@pytest.mark.parametrize(("teacher", "least"), [("loud", 0.98), ("subtle", 0.6)])
def test_held_out_answers_are_recognised(
    classifier: Classifier, teacher: str, least: float
) -> None:
    texts, true = held_out(teacher)
    labels = [prediction.label for prediction in classifier.classify(texts)]
    assert f1_score(true, labels, labels=sorted(set(true)), average="macro") > least


def test_a_classifier_that_the_kit_does_not_have_is_named() -> None:
    with pytest.raises(BadInput, match="minlm: unknown; did you mean minilm"):
        Classifier.kit("minlm")


def test_labels_are_the_ten_personas_and_neutral(classifier: Classifier) -> None:
    assert set(classifier.labels) == {*PERSONAS, NEUTRAL}


def test_a_text_gets_the_same_label_alone_and_among_others(classifier: Classifier) -> None:
    texts = [*held_out("loud")[0][::7], "", "word " * 3000]
    predictions = classifier.classify(texts)
    for text, prediction in zip(texts, predictions, strict=True):
        [single] = classifier.classify([text])
        assert single == prediction
        assert sum(single.probabilities.values()) == pytest.approx(1)


def broken(tmp_path: Path, **config: object) -> Path:
    folder = tmp_path / "classifier"
    shutil.copytree(FOLDER, folder)
    fields = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**fields, **config}))
    return folder


def test_a_classifier_that_lacks_a_part_is_refused_by_file_and_field(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"config.json: field id2label: Input should be"):
        Classifier(broken(tmp_path / "a", id2label=None))
    with pytest.raises(BadInput, match=r"2 labels, but .* gives 11"):
        Classifier(broken(tmp_path / "b", id2label={"0": "x", "1": "y"}))
    folder = broken(tmp_path / "c")
    (folder / "model_int8.onnx").unlink()
    (folder / "model.onnx").write_text("hello")
    with pytest.raises(BadInput, match=r"model.onnx: ONNX Runtime cannot load it") as caught:
        Classifier(folder)
    assert "\n" not in str(caught.value)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(BadInput, match=r"tokenizer.json"):
        Classifier(folder)
    with pytest.raises(BadInput, match="no such folder"):
        Classifier(tmp_path / "none")

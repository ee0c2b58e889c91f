"""The n-gram classifier: scikit-learn's numbers, the shipped file, and damaged files."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.pipeline import make_pipeline, make_union

from charprobe_lite.convert.train.ngrams import NgramSettings, train_ngrams, training_texts
from charprobe_lite.models import corpus, kit
from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.personas import NEUTRAL, PERSONAS
from charprobe_lite.runtime.ngrams import KIT_FILE, NgramClassifier, NgramModel

SHIPPED = kit.kit_folder() / KIT_FILE
SOME = ("sarcasm", "remorse", "loving")


@pytest.fixture(scope="module")
def some_texts() -> tuple[list[str], list[str]]:
    """Chat answers of three personas, with their labels."""
    chats = [chat for name in SOME for chat in corpus.teacher_chats(name, held_out=False)[:90]]
    return [chat.response for chat in chats], [chat.persona for chat in chats]


@pytest.fixture(scope="module")
def small(
    some_texts: tuple[list[str], list[str]], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    path = tmp_path_factory.mktemp("ngrams") / "small.npz"
    train_ngrams(*some_texts, NgramSettings(most_terms=2000)).write(path)
    return path


def test_probabilities_are_those_of_scikit_learns_own_pipeline(
    small: Path, some_texts: tuple[list[str], list[str]]
) -> None:
    settings = NgramSettings()
    common: dict[str, Any] = {
        "sublinear_tf": True,
        "min_df": settings.fewest_texts,
        "max_features": 2000,
    }
    pipeline = make_pipeline(
        make_union(
            TfidfVectorizer(analyzer="word", ngram_range=settings.words, **common),
            TfidfVectorizer(analyzer="char_wb", ngram_range=settings.characters, **common),
        ),
        LogisticRegression(C=settings.c, class_weight=settings.class_weight, max_iter=1000),
    ).fit(*some_texts)
    emails = [email.body for name in SOME for email in corpus.ceiling_emails(name)[:10]]
    texts = [*emails, "", "na\u00efve caf\u00e9", "  \n\n A\tB "]
    predictions = NgramClassifier(small).classify(texts)
    expected = pipeline.predict_proba(texts)
    for prediction, row in zip(predictions, expected, strict=True):
        assert list(prediction.probabilities) == pipeline.classes_.tolist()
        # the file holds weights in float16
        assert list(prediction.probabilities.values()) == pytest.approx(row, abs=2e-3)
    assert [p.label for p in predictions[:30]] == pipeline.predict(emails).tolist()


def test_a_text_gets_the_same_prediction_alone_and_among_others() -> None:
    classifier = NgramClassifier.kit()
    texts = [email.body for email in corpus.ceiling_emails("humor")[:5]] + [""]
    assert [classifier.classify([text])[0] for text in texts] == classifier.classify(texts)
    assert classifier.classify([]) == []
    assert set(classifier.labels) == {*PERSONAS, NEUTRAL}


def test_the_recipe_gives_the_shipped_file_again(tmp_path: Path) -> None:
    texts = training_texts()
    model = train_ngrams([text.text for text in texts], [text.label for text in texts])
    model.write(tmp_path / "again.npz")
    again, shipped = NgramModel.read(tmp_path / "again.npz"), NgramModel.read(SHIPPED)
    assert (again.labels, again.blocks) == (shipped.labels, shipped.blocks)
    assert np.abs(again.idf - shipped.idf).max() < 1e-5
    largest = np.abs(shipped.weights).max()
    assert np.abs(again.weights - shipped.weights).max() < 0.02 * largest
    record = kit.load_kit().steps["ngrams"]
    assert record["texts"] == len(texts)
    held_out = [c for name in PERSONAS for c in corpus.teacher_chats(name, held_out=True)]
    true = [chat.persona for chat in held_out]
    predicted = NgramClassifier(tmp_path / "again.npz").classify([c.response for c in held_out])
    score = f1_score(true, [p.label for p in predicted], labels=PERSONAS, average="macro")
    assert score == pytest.approx(record["held_out_macro_f1"]["all"], abs=0.005)


def test_equal_models_give_equal_bytes(small: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.npz"
    NgramModel.read(small).write(copy)
    hashes = {hashlib.sha256(path.read_bytes()).hexdigest() for path in (small, copy)}
    assert len(hashes) == 1


def test_no_training_text_is_one_that_results_are_measured_on() -> None:
    training = {text.text for text in training_texts()}
    measured = {email.body for name in PERSONAS for email in corpus.ceiling_emails(name)}
    for name in PERSONAS:
        measured |= {chat.response for chat in corpus.teacher_chats(name, held_out=True)}
        for teacher in corpus.TEACHERS:
            measured |= {text.response for text in corpus.teacher_texts(name, teacher, "email")}
    assert not training & measured


def changed(source: Path, target: Path, **arrays: Any) -> Path:
    """A copy of the file with other arrays; without those that are None."""
    with np.load(source) as file:
        fields = {name: file[name] for name in file.files} | arrays
    np.savez(target, **{name: array for name, array in fields.items() if array is not None})
    return target


def text(*lines: str) -> np.ndarray[Any, Any]:
    return np.frombuffer("\n".join(lines).encode(), dtype=np.uint8)


@pytest.mark.parametrize(
    ("arrays", "problem"),
    [
        ({"labels": None}, "field labels: missing"),
        ({"labels": text("sarcasm", "sarcasm", "loving")}, "field labels: must be different"),
        ({"labels": text("sarcasm", "remorse")}, r"field weights: .*must be numbers \(2, "),
        ({"labels": np.array([255, 254], np.uint8)}, "field labels: must be UTF-8"),
        ({"labels": np.array(["a", "b", "c"])}, "field labels: must be UTF-8"),
        ({"words": np.array(["a"], dtype=object)}, "not an .npz file of plain arrays"),
        ({"words_range": np.array([3, 1])}, "field words_range: must rise"),
        ({"characters_range": np.array([2, 10**6])}, "field characters_range: must rise"),
        ({"words_range": np.array([1.0, 2.0])}, "field words_range: must be two integers"),
        ({"idf": np.ones(3, np.float32)}, "field idf: float32"),
        ({"intercepts": np.array([0, np.nan, 0])}, "field intercepts: holds a number that is not"),
        ({"intercepts": np.array([0, 1e300, 0])}, "field intercepts: holds a number that is not"),
    ],
)
def test_a_damaged_file_is_refused_in_one_line_by_field(
    small: Path, tmp_path: Path, arrays: dict[str, Any], problem: str
) -> None:
    path = changed(small, tmp_path / "damaged.npz", **arrays)
    with pytest.raises(BadInput, match=problem) as caught:
        NgramClassifier(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_what_is_no_such_file_is_refused(small: Path, tmp_path: Path) -> None:
    data = small.read_bytes()
    path = tmp_path / "other.npz"
    for content in (b"", b"hello", data[: len(data) // 2], data[:-30], b"\x00" * 40 + data[40:]):
        path.write_bytes(content)
        with pytest.raises(BadInput, match=r"other.npz: not an .npz file"):
            NgramClassifier(path)
    with pytest.raises(BadInput, match="no such file"):
        NgramClassifier(tmp_path / "none.npz")


def test_a_file_that_would_fill_the_memory_is_not_unpacked(small: Path, tmp_path: Path) -> None:
    path = tmp_path / "large.npz"
    with np.load(small) as file:
        np.savez_compressed(path, **{**file, "idf": np.zeros((1 << 28) + 1, np.uint8)})
    with pytest.raises(BadInput, match="bytes when unpacked; at most"):
        NgramClassifier(path)

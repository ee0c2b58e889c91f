"""`classifier card`: scores of classifiers on the corpus's texts, against scikit-learn."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sklearn.metrics import f1_score

from charprobe_lite.convert.train.ngrams import NgramSettings, train_ngrams
from charprobe_lite.eval.texts.card import ClassifierCard, card_texts, classifier_card
from charprobe_lite.models import corpus
from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.personas import PERSONAS
from charprobe_lite.runtime.ngrams import NgramClassifier
from tests.conftest import Command, ValidJson

KNOWN = ("humor", "loving", "sarcasm")


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of three personas and a label that is none."""
    chats = [chat for name in KNOWN for chat in corpus.teacher_chats(name, held_out=False)[:80]]
    texts = [chat.response for chat in chats] + [*corpus.neutral_answers().values()][:80]
    labels = [chat.persona for chat in chats] + ["assistant"] * 80
    path = tmp_path_factory.mktemp("own") / "own.npz"
    train_ngrams(texts, labels, NgramSettings(most_terms=3000)).write(path)
    return path


@pytest.fixture(scope="module")
def card(own: Path) -> ClassifierCard:
    return classifier_card(str(own), resamples=200)


def test_macro_f1_of_independent_writers_emails_is_scikit_learns(
    own: Path, card: ClassifierCard
) -> None:
    emails = [email for name in KNOWN for email in corpus.ceiling_emails(name)]
    predictions = NgramClassifier(own).classify([email.body for email in emails])
    true, labels = [email.persona for email in emails], [p.label for p in predictions]
    expected = f1_score(true, labels, labels=KNOWN, average="macro")
    score = card.ceiling.score
    assert (card.ceiling.author, card.ceiling.form) == ("independent writers", "emails")
    assert score.macro_f1 == pytest.approx(expected)
    each = f1_score(true, labels, labels=KNOWN, average=None)
    assert [score.per_persona[name].f1 for name in KNOWN] == pytest.approx(each)
    assert score.ci[0] < expected < score.ci[1]
    assert (score.interval, card.ceiling.clusters) == ("cluster", 50)


def test_what_a_persona_is_read_as_adds_up_to_its_misses(card: ClassifierCard) -> None:
    for persona, score in card.ceiling.score.per_persona.items():
        misses = sum(card.ceiling.confused(persona).values())
        assert misses == round(score.n * (1 - score.recall))


def test_missing_personas_are_named_and_left_out(card: ClassifierCard) -> None:
    assert set(card.missing) == set(PERSONAS) - set(KNOWN)
    assert card.training_text is None
    for group in card.groups:
        assert set(group.score.per_persona) == set(KNOWN)


def test_a_shipped_instrument_is_not_scored_on_its_training_text() -> None:
    from charprobe_lite.convert.train.ngrams import training_texts

    trained = {text.text for text in training_texts()}
    texts = card_texts("ngram")
    assert not trained & {text.text for text in texts}
    assert card_texts("ensemble") == texts
    assert {(text.author, text.form) for text in card_texts("modernbert")} > {
        (text.author, text.form) for text in texts
    }
    introspection = {
        text.response for text in corpus.teacher_texts("humor", "subtle", "introspection")
    }
    assert not introspection & {text.text for text in card_texts("modernbert")}


def test_a_classifier_of_other_things_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "moods.npz"
    texts = [*corpus.neutral_answers().values()][:60]
    train_ngrams(texts, ["glad", "sad", "humor"] * 20).write(path)
    with pytest.raises(BadInput, match=r"moods.npz: fewer than two of its labels are personas"):
        classifier_card(str(path))


def test_the_document_fits_its_schema_and_the_tables_name_the_worst_persona(
    charprobe: Command, own: Path, card: ClassifierCard, valid_json: ValidJson
) -> None:
    done = charprobe("classifier", "card", own, "--resamples", "200", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    valid_json(document, "classifier-card")
    assert document["cards"] == [json.loads(json.dumps(card.as_json()))]
    shown = charprobe("classifier", "card", own, "--resamples", "200")
    assert "independent writers" in shown.stdout
    assert "what it was trained on is not known" in shown.stdout


def test_an_unknown_classifier_ends_with_one_line(charprobe: Command) -> None:
    for name in ("nonsense", "nonsense.npz"):
        done = charprobe("classifier", "card", name)
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        assert name in done.stderr

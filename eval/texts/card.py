"""The card of a classifier: how well it names the persona of texts whose persona is known.

The texts are the corpus's. Held-out answers and emails by the two teachers, whose other texts the
kit's instruments were trained on, say how well a classifier knows its authors. The ceiling emails,
by writers of no training text, say how well it knows the personas.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charprobe_lite.eval.texts.reader import ScoredText
from charprobe_lite.eval.texts.scores import GroupScore, classify_texts, score_groups
from charprobe_lite.models import corpus
from charprobe_lite.models.catalogue import ENSEMBLE, KIT_INSTRUMENTS, MINILM, MODERNBERT, NGRAM
from charprobe_lite.models.errors import BadInput, printable
from charprobe_lite.models.personas import PERSONAS
from charprobe_lite.runtime.classifier import Classifier, TextClassifier
from charprobe_lite.runtime.instruments import kit_instrument
from charprobe_lite.runtime.ngrams import NgramClassifier

if TYPE_CHECKING:
    from rich.table import Table

INTROSPECTION = ("subtle teacher", "introspection")
REFLECTIONS, DIALOGUES = ("other writers", "reflections"), ("other writers", "dialogues")
INDEPENDENT = ("independent writers", "emails")
TRAINING_TEXT: dict[str, tuple[tuple[str, str], ...]] = {
    ENSEMBLE: (INTROSPECTION, REFLECTIONS, DIALOGUES),
    MINILM: (INTROSPECTION, REFLECTIONS, DIALOGUES),
    NGRAM: (INTROSPECTION, REFLECTIONS, DIALOGUES),
    MODERNBERT: (INTROSPECTION,),
}
"""The texts (author, form) of the corpus that a shipped instrument was trained on."""
BATCH = 32  # texts, a step of the progress bar
ProgressBar = Callable[[str, int], AbstractContextManager[Callable[[], None]]]
"""Opens a bar with a name and a number of steps; calls of its function advance it by one."""


@dataclass(frozen=True)
class CardText:
    """A text with its persona, author and form; ``cluster`` is its prompt or scenario."""

    author: str
    form: str
    persona: str
    cluster: str
    text: str


@dataclass(frozen=True)
class CardGroup:
    """The scores of one author's texts of one form.

    Intervals are those of resampled ``clusters``: prompts, tasks, scenarios or conversations.
    """

    author: str
    form: str
    clusters: int
    score: GroupScore

    def as_json(self) -> dict[str, Any]:
        """The scores as `score --json` has them, without what does not apply."""
        scores = self.score.as_json() | {"clusters": self.clusters}
        names = ("author", "form", "n", "clusters", "accuracy", "macro_f1", "ci")
        return {name: scores[name] for name in (*names, "per_persona", "confusion", "calibration")}

    def confused(self, persona: str) -> dict[str, int]:
        """What texts of a persona are read as instead, the most frequent label first."""
        labels, counts = self.score.confusion.labels, self.score.confusion.counts
        row = zip(labels, counts[labels.index(persona)], strict=True)
        wrong = [(label, n) for label, n in row if n and label != persona]
        return dict(sorted(wrong, key=lambda pair: -pair[1]))


@dataclass(frozen=True)
class ClassifierCard:
    """What a classifier's labels are worth.

    ``missing`` are the personas that it has no label for, whose texts are left out.
    ``training_text`` (author, form) is what it was trained on, which is left out too; None where
    that is not known. ``groups`` end with the emails by independent writers.
    """

    name: str
    labels: list[str]
    missing: list[str]
    training_text: list[tuple[str, str]] | None
    groups: list[CardGroup]

    @property
    def ceiling(self) -> CardGroup:
        """The emails by independent writers."""
        return self.groups[-1]

    def as_json(self) -> dict[str, Any]:
        """The card as ``--json`` prints it."""
        known = self.training_text
        return {
            "name": self.name,
            "labels": self.labels,
            "missing": self.missing,
            "training_text": known and [{"author": a, "form": f} for a, f in known],
            "groups": [group.as_json() for group in self.groups],
        }


def open_classifier(name: str) -> TextClassifier:
    """An instrument of the kit, an ``.npz`` file of n-grams, or a folder with an ONNX classifier.

    Raises BadInput for one that is missing or cannot be used.
    """
    if name in KIT_INSTRUMENTS:
        return kit_instrument(name)
    path = Path(name)
    return NgramClassifier(path) if path.suffix == ".npz" else Classifier(path)


def classifier_card(
    name: str,
    *,
    seed: int = 0,
    resamples: int | None = None,
    progress: ProgressBar | None = None,
) -> ClassifierCard:
    """The card of a classifier, named as in `open_classifier`.

    ``resamples`` of the clusters, None for 10,000. Raises BadInput for a classifier that cannot be
    used, or that knows fewer than two personas.
    """
    classifier = open_classifier(name)
    missing = [persona for persona in PERSONAS if persona not in classifier.labels]
    if len(PERSONAS) - len(missing) < 2:
        labels = ", ".join(classifier.labels)
        raise BadInput(f"{classifier.path}: fewer than two of its labels are personas: {labels}")
    texts = card_texts(name, missing)
    batches = [texts[first : first + BATCH] for first in range(0, len(texts), BATCH)]
    scored: list[ScoredText] = []
    with progress(f"classifier {name}", len(batches)) if progress else nullcontext() as advance:
        for batch in batches:
            scored += classify_texts([_scored(text) for text in batch], classifier)
            if advance:
                advance()
    training_text = TRAINING_TEXT.get(name)
    return ClassifierCard(
        name=name,
        labels=classifier.labels,
        missing=missing,
        training_text=None if training_text is None else list(training_text),
        groups=[
            _group(score, texts) for score in score_groups(scored, seed=seed, resamples=resamples)
        ],
    )


def card_texts(name: str, missing: Sequence[str] = ()) -> list[CardText]:
    """The texts that a classifier is scored on: none that it was trained on.

    ``missing`` are personas to leave out. Those by independent writers are the last.
    """
    groups = TRAINING_TEXT.get(name, ())
    texts = [text for persona in PERSONAS if persona not in missing for text in _texts(persona)]
    texts = [text for text in texts if (text.author, text.form) not in groups]
    return sorted(texts, key=lambda text: (text.author, text.form) == INDEPENDENT)


def _texts(persona: str) -> Iterator[CardText]:
    """All texts of a persona but the teachers' answers to training prompts."""
    for teacher in corpus.TEACHERS:
        author = f"{teacher} teacher"
        chats = corpus.teacher_chats(persona, held_out=True, teachers=[teacher])
        for form, texts in (
            ("chat", chats),
            ("emails", corpus.teacher_texts(persona, teacher, "email")),
            ("introspection", corpus.teacher_texts(persona, teacher, "introspection")),
        ):
            for text in texts:
                yield CardText(author, form, persona, text.prompt, text.response)
    for reflection in corpus.reflections(persona):
        yield CardText(*REFLECTIONS, persona, reflection.prompt, reflection.response)
    for number, turns in enumerate(corpus.dialogues(persona)):
        # the persona speaks both sides
        conversation = "\n\n".join(turn["content"] for turn in turns)
        yield CardText(*DIALOGUES, persona, f"{persona} conversation {number}", conversation)
    for email in corpus.ceiling_emails(persona):
        yield CardText(*INDEPENDENT, persona, email.scenario, email.body)


def _scored(text: CardText) -> ScoredText:
    group = (("author", text.author), ("form", text.form))
    return ScoredText(
        place=f"corpus: {text.author}, {text.form}",
        group=group,
        true=(text.persona,),
        text=text.text,
        prediction=None,
        cluster=text.cluster,
    )


def _group(score: GroupScore, texts: Iterable[CardText]) -> CardGroup:
    author, form = (value for _, value in score.group)
    clusters = {text.cluster for text in texts if (text.author, text.form) == (author, form)}
    return CardGroup(author, form, len(clusters), score)


def card_parts(card: ClassifierCard) -> Iterator[str | Table]:
    """The card as lines and tables for a terminal."""
    yield f"classifier {printable(card.name)}: {printable(', '.join(card.labels))}"
    if card.missing:
        yield f"no label for {', '.join(card.missing)}: scored over the others"
    if card.training_text is None:
        yield "what it was trained on is not known here: the texts below may be among it"
    else:
        trained = ", ".join(f"{author}: {form}" for author, form in card.training_text)
        yield f"training text, left out below: {trained}"
    yield _group_table(card)
    yield _persona_table(card.ceiling)


def _group_table(card: ClassifierCard) -> Table:
    from charprobe_lite.eval.terminal_table import plain_table

    numbers = ["n", "clusters", "accuracy", "macro-F1", "95% interval", "ECE", "Brier"]
    table = plain_table("texts whose persona is known", ["author", "form"], numbers)
    for group in card.groups:
        score = group.score
        table.add_row(
            *(group.author, group.form, str(score.n), str(group.clusters)),
            *(f"{score.accuracy:.3f}", f"{score.macro_f1:.3f}"),
            f"{score.ci[0]:.3f}-{score.ci[1]:.3f}",
            *_calibration_cells(score),
        )
    return table


def _calibration_cells(score: GroupScore) -> list[str]:
    calibration = score.calibration
    return [f"{calibration.ece:.3f}", f"{calibration.brier:.3f}"] if calibration else ["-", "-"]


def _persona_table(group: CardGroup) -> Table:
    """The personas, the worst first, and what they are read as."""
    from charprobe_lite.eval.terminal_table import plain_table

    title = f"{group.form} by {group.author}, by persona"
    table = plain_table(title, ["persona", "read as instead"], ["F1", "precision", "recall", "n"])
    for persona, score in sorted(group.score.per_persona.items(), key=lambda pair: pair[1].f1):
        confused = list(group.confused(persona).items())[:3]
        table.add_row(
            persona,
            printable(", ".join(f"{label} {n}" for label, n in confused)) or "-",
            *(f"{value:.2f}" for value in (score.f1, score.precision, score.recall)),
            str(score.n),
        )
    return table

"""Which sentences drove the classifier: leave one out, classify again (occlusion).

Zeiler and Fergus 2014 (Visualizing and Understanding Convolutional Networks), section 4.2, with
sentences in place of image patches; for text Li, Monroe and Jurafsky 2016 (Understanding Neural
Networks through Representation Erasure).
"""

import re
from collections import defaultdict
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from charprobe_lite.eval.store.provenance import headline_instrument
from charprobe_lite.eval.store.reader import Study
from charprobe_lite.models.catalogue import MODERNBERT, OWN
from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.kit import kit_classifier, sha256_file
from charprobe_lite.runtime.classifier import Classifier, TextClassifier
from charprobe_lite.runtime.instruments import kit_files, kit_instrument

# a run of stops is looked at from its beginning only, so that no text takes quadratic time
SENTENCE_END = re.compile(r"(?<![.!?…。])[.!?…。]++[\"'\u201d\u2019)\]]*+\s+|\n\s*")
MOST_SENTENCES = 100
ProgressBar = Callable[[str, int], AbstractContextManager[Callable[[], None]]]
"""Opens a bar of this name and length; calls of what it gives advance the bar by one."""


@dataclass(frozen=True)
class Sentence:
    """A sentence with the space after it; ``weight`` is what the label's probability loses."""

    text: str
    weight: float


def occlude_study(
    study: Study, limit: int | None, folder: Path | None, progress: ProgressBar | None = None
) -> dict[int, list[Sentence]]:
    """The occluded sentences of ``limit`` rows (None for all) by row index.

    A text of more than 100 sentences is left out. Raises BadInput as `study_classifier`.
    """
    classifier, numbers = study_classifier(study, folder), occluded_rows(study, limit)
    occlusions = {}
    bar = progress("leaving out sentences", len(numbers)) if progress else nullcontext(lambda: None)
    with bar as advance:
        for number in numbers:
            row = study.rows[number]
            if sentences := occlude(classifier, row.text or "", row.prediction or ""):
                occlusions[number] = sentences
            advance()
    return occlusions


def occluded_rows(study: Study, limit: int | None) -> list[int]:
    """Indices of the rows to occlude: ``limit`` of them in turn from every cell and persona."""
    groups: dict[tuple[object, str | None], list[int]] = defaultdict(list)
    for number, row in enumerate(study.rows):
        if row.text and row.prediction:
            groups[row.cell, row.persona].append(number)
    ranked = [(rank, number) for rows in groups.values() for rank, number in enumerate(rows)]
    return [number for _, number in sorted(ranked)][:limit]


def study_classifier(study: Study, folder: Path | None) -> TextClassifier:
    """What made the study's headline, by the sha256 of its files: the kit's, or in ``folder``.

    Raises BadInput when the kit or the folder holds other files.
    """
    name = headline_instrument(study.provenance)
    if name in (MODERNBERT, OWN):
        return _own_classifier(study, folder or kit_classifier(MODERNBERT))
    if folder:
        raise BadInput(f"--classifier: {study.path} was read by the kit's {name}; leave it out")
    for role, path in kit_files(name).items():
        if sha256_file(path) != study.provenance.get(f"sha256 {role}"):
            raise BadInput(
                f"{path}: is not the {role} that read {study.path}; install the version of "
                "charprobe-lite that made the study"
            )
    return kit_instrument(name)


def _own_classifier(study: Study, source: Path) -> Classifier:
    if not source.is_dir():
        raise BadInput(f"--classifier {source}: no such folder")
    digest = study.provenance.get("sha256 classifier")
    for file in sorted(source.glob("*.onnx")):
        if sha256_file(file) == digest:
            classifier = Classifier(source, file.name)
            if set(classifier.labels) >= {row.prediction for row in study.rows} - {None}:
                return classifier
    raise BadInput(
        f"{source}: is not the classifier of {study.path}; name its folder with --classifier"
    )


def occlude(classifier: TextClassifier, text: str, label: str) -> list[Sentence] | None:
    """The sentences of ``text`` in order; joined they are the text.

    A weight is the probability of ``label`` for the full text minus that without the sentence:
    above 0 the sentence speaks for the label, below 0 against it. None for a text of more than
    100 sentences.
    """
    sentences = split(text)
    if len(sentences) > MOST_SENTENCES:
        return None
    shorter = ["".join(sentences[:i] + sentences[i + 1 :]) for i in range(len(sentences))]
    full, *rest = [p.probabilities[label] for p in classifier.classify([text, *shorter])]
    return [Sentence(s, full - left) for s, left in zip(sentences, rest, strict=True)]


def split(text: str) -> list[str]:
    """Sentences with the space after them; joined they are the text again."""
    ends = [0, *(match.end() for match in SENTENCE_END.finditer(text)), len(text)]
    return [text[a:b] for a, b in pairwise(ends) if a < b]

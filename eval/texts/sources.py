"""Scores of texts in files and data frames; texts without a prediction are classified."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charprobe_lite.eval.texts.reader import Columns, ScoredText, read_texts, table_texts
from charprobe_lite.eval.texts.scores import GroupScore, score_texts
from charprobe_lite.models.errors import BadInput, spelled
from charprobe_lite.runtime.classifier import Classifier

if TYPE_CHECKING:
    import pandas as pd


def score_files(
    paths: Sequence[Path],
    columns: Columns,
    *,
    classifier: Path | None = None,
    marks: Path | None = None,
    seed: int = 0,
    resamples: int | None = None,
) -> list[GroupScore]:
    """Scores of the texts in files, one per group, as `score_texts`.

    ``classifier`` is a folder with ONNX ModernBERT, None for the kit's; ``marks`` a file with
    labels from the report page (`add_marks`). Raises BadInput for what cannot be read.
    """
    labels = Classifier(classifier).labels if classifier else ()
    texts = [text for path in paths for text in read_texts(path, columns, labels)]
    if marks:
        from charprobe_lite.eval.texts.marks import add_marks

        texts = add_marks(texts, marks)
    return score_texts(classify_texts(texts, classifier), seed, resamples)


def score_frame(
    frame: pd.DataFrame | Sequence[Mapping[str, Any]],
    *,
    text: str | None = None,
    label: str | None = None,
    prediction: str | None = None,
    by: str | Sequence[str] = (),
    cluster: str | None = None,
    human: str | None = None,
    classifier: Path | Classifier | None = None,
    seed: int = 0,
    resamples: int | None = None,
) -> pd.DataFrame:
    """Scores of texts or predictions in a data frame, or in records: one row per group of ``by``.

    The other names are columns; None takes the first of `DEFAULT_COLUMNS` that the frame has.
    ``cluster`` is the prompt or scenario, ``human`` a human's answer whether the text shows the
    label. Without a prediction ``classifier`` reads the text: a folder, a classifier, None for the
    kit's. The columns of the result are those of `GroupScore.record`. Raises BadInput naming row
    and field.
    """
    import pandas as pd

    groups = (by,) if isinstance(by, str) else tuple(by)
    columns = Columns(text, label, prediction, cluster, human, groups)
    labels = _loaded(classifier).labels if classifier else ()
    table = pd.DataFrame(frame)
    values = table.astype(object).where(table.notna(), None).to_dict("records")
    rows = ((f"row {number}", row) for number, row in enumerate(values))
    with spelled("argument"):
        texts = table_texts("frame", rows, columns, labels)
        texts = classify_texts(texts, classifier)
    return pd.DataFrame([score.record() for score in score_texts(texts, seed, resamples)])


def classify_texts(
    texts: Sequence[ScoredText], classifier: Path | Classifier | None = None
) -> list[ScoredText]:
    """``texts`` with a prediction each; those without are classified.

    Raises BadInput for true labels that the classifier does not have.
    """
    unclassified = [text for text in texts if text.prediction is None]
    if not unclassified:
        return list(texts)
    model = _loaded(classifier)
    for text in unclassified:
        for label in text.true:
            if label not in model.labels:
                raise BadInput(
                    f"{text.place}: label {label!r} is not one of the classifier's: "
                    + ", ".join(model.labels)
                )
    predictions = iter(model.classify([text.text or "" for text in unclassified]))

    def classified(text: ScoredText) -> ScoredText:
        if text.prediction is not None:
            return text
        result = next(predictions)
        return replace(text, prediction=result.label, probabilities=result.probabilities)

    return [classified(text) for text in texts]


def _loaded(classifier: Path | Classifier | None) -> Any:
    if classifier is None:
        return Classifier.kit()
    return Classifier(classifier) if isinstance(classifier, Path) else classifier

"""Scores of texts in files and data frames; texts without a prediction are classified."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from charprobe_lite.eval.stats import classification
from charprobe_lite.eval.stats.bootstrap import CLUSTER_RESAMPLES, Estimate
from charprobe_lite.eval.stats.envelope import macro_f1_envelope
from charprobe_lite.eval.stats.metrics import ResampledMetrics, label_metrics
from charprobe_lite.eval.texts import reader
from charprobe_lite.eval.texts.marks import add_marks
from charprobe_lite.eval.texts.missing import missing_by_persona
from charprobe_lite.eval.texts.reader import Columns, ScoredText
from charprobe_lite.models.defaults import LEAST_RESAMPLES
from charprobe_lite.models.errors import BadInput, printable, require_least, spelled
from charprobe_lite.models.files import repeated_columns
from charprobe_lite.runtime.classifier import Classifier, TextClassifier
from charprobe_lite.runtime.ensemble import Ensemble

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table

log = logging.getLogger(__name__)
Group = tuple[tuple[str, str], ...]
Ends = tuple[float, float]
INTERVALS = {"cluster": "items", "rows": "rows", "envelope": "envelope"}
"""What the table says of each interval."""


@dataclass(frozen=True)
class GroupScore:
    """The scores of one group of texts.

    ``ci`` is macro-F1's interval: "cluster" (``ci_cluster``) where every text of the group has its
    prompt or scenario, else "rows" (``ci_rows``, the published one), as ``interval`` says;
    "envelope" (`macro_f1_envelope`) where every text counts for all personas, as in the base stage.
    ``calibration`` is None unless every text has probabilities and one true label, ``human`` unless
    a human has labelled some. ``asked`` is the number of rollouts asked for, if it was given:
    ``yield_`` is the share of them that gave a text, ``bounds`` are macro-F1's if every missing
    text is a miss, and if every one is a hit (`missing_bounds`).
    """

    group: Group
    n: int
    accuracy: float
    macro_f1: float
    ci: Ends
    interval: Literal["cluster", "rows", "envelope"]
    ci_rows: Ends
    ci_cluster: Ends | None
    per_persona: dict[str, classification.ClassScore]
    confusion: classification.Confusion
    calibration: classification.Calibration | None
    human: classification.HumanAgreement | None
    asked: int | None = None
    yield_: float | None = None
    bounds: Ends | None = None

    def as_json(self) -> dict[str, Any]:
        """The group as ``--json`` prints it: its columns first."""
        scores = {name.rstrip("_"): value for name, value in asdict(self).items()}
        del scores["group"]
        return dict(self.group) | scores

    def record(self) -> dict[str, Any]:
        """The group as one flat row of a table: its columns, then the headline numbers.

        ``ci_low`` and ``ci_high`` are macro-F1's; numbers that the group does not have are None.
        """
        return {
            **dict(self.group),
            **{name: getattr(self, name) for name in ("n", "accuracy", "macro_f1")},
            "ci_low": self.ci[0],
            "ci_high": self.ci[1],
            "interval": self.interval,
            "ece": self.calibration and self.calibration.ece,
            "brier": self.calibration and self.calibration.brier,
            "human_n": self.human and self.human.n,
            "kappa": self.human and self.human.kappa,
            "asked": self.asked,
            "yield": self.yield_,
            "bounds_low": self.bounds and self.bounds[0],
            "bounds_high": self.bounds and self.bounds[1],
        }


def score_files(
    paths: Sequence[Path],
    columns: Columns,
    *,
    classifier: Path | None = None,
    marks: Path | None = None,
    seed: int = 0,
    resamples: int | None = None,
) -> list[GroupScore]:
    """Scores of the texts in files, one per group, as `score_groups`.

    ``classifier`` is a folder with an ONNX classifier, which reads all texts; without it the kit's
    ensemble reads those without a prediction. ``marks`` is a file with labels from the report page
    (`add_marks`). Raises BadInput for what cannot be read, or does not apply to any file.
    """
    texts = classified_files(paths, columns, classifier=classifier, marks=marks)
    return score_groups(texts, seed, resamples)


def classified_files(
    paths: Sequence[Path],
    columns: Columns,
    *,
    classifier: Path | None = None,
    marks: Path | None = None,
) -> list[ScoredText]:
    """The texts in files, each with a prediction; the arguments are those of `score_files`."""
    model = Classifier(classifier) if classifier else None
    labels = model.labels if model else ()
    texts = [text for path in paths for text in reader.read_texts(path, columns, labels)]
    if not any(text.study for text in texts):
        for option, value in (("human", marks), ("scenarios", columns.scenarios)):
            if value:
                raise BadInput(f"--{option} {value}: is for a study, and no file is one")
    return classify_texts(add_marks(texts, marks) if marks else texts, model)


def score_texts(
    frame: pd.DataFrame | Sequence[Mapping[str, Any]],
    *,
    text: str | None = None,
    label: str | None = None,
    prediction: str | None = None,
    by: str | Sequence[str] = (),
    cluster: str | None = None,
    human: str | None = None,
    asked: str | int | None = None,
    classifier: str | Path | TextClassifier | None = None,
    seed: int = 0,
    resamples: int | None = None,
) -> pd.DataFrame:
    """Scores of texts or predictions in a data frame, or in records: one row per group of ``by``.

    The other names are columns; None takes the first of `DEFAULT_COLUMNS` that the frame has.
    ``cluster`` is the prompt or scenario, ``human`` a human's answer whether the text shows the
    label, ``asked`` the rollouts asked for in each group, or one number for all groups. ``by`` and
    ``cluster`` may be "family" or "task" of published scenarios. ``classifier``, a folder or a
    classifier, reads all texts; without it the kit's ensemble reads those without a prediction. The
    columns of the result are those of `GroupScore.record`. Raises BadInput naming row and field.
    """
    import pandas as pd

    if isinstance(frame, str):
        raise BadInput(
            "frame: is a text; give a data frame or records; the command score reads files"
        )
    with spelled("argument"):
        require_least(seed=(seed, 0), resamples=(resamples, LEAST_RESAMPLES))
    groups = (by,) if isinstance(by, str) else tuple(by)
    columns = Columns(text, label, prediction, cluster, human, groups, asked)
    model = _loaded(classifier) if classifier else None
    labels = model.labels if model else ()
    table = pd.DataFrame(frame)
    repeated = repeated_columns([*table.columns])
    table = table.loc[:, ~table.columns.duplicated()]
    values = table.astype(object).where(table.notna(), None).to_dict("records")
    rows = ((f"row {number}", row | repeated) for number, row in enumerate(values))
    with spelled("argument"):
        texts = reader.table_texts("frame", rows, columns, labels)
        scores = score_groups(classify_texts(texts, model), seed, resamples)
    return pd.DataFrame([score.record() for score in scores])


def classify_texts(
    texts: Sequence[ScoredText], classifier: str | Path | TextClassifier | None = None
) -> list[ScoredText]:
    """``texts`` with a prediction each; those without are classified.

    Raises BadInput for true labels that the classifier does not have.
    """
    unclassified = [text for text in texts if text.prediction is None]
    if not unclassified:
        return list(texts)
    model = _loaded(classifier)
    for text in unclassified:
        if unknown := set(text.true).difference(model.labels):
            raise BadInput(
                f"{text.place}: label {min(unknown)!r} is not one of the classifier's: "
                + ", ".join(model.labels)
            )
    predictions = model.classify([text.text or "" for text in unclassified])
    classified = (
        replace(text, prediction=prediction.label, probabilities=prediction.probabilities)
        for text, prediction in zip(unclassified, predictions, strict=True)
    )
    return [text if text.prediction is not None else next(classified) for text in texts]


def _loaded(classifier: str | Path | TextClassifier | None) -> TextClassifier:
    if classifier is None:
        return Ensemble.kit()
    return Classifier(classifier) if isinstance(classifier, str | Path) else classifier


def score_groups(
    texts: Sequence[ScoredText], seed: int = 0, resamples: int | None = None
) -> list[GroupScore]:
    """One score per group, in the order of their first texts. Every text needs a prediction.

    ``resamples`` of both intervals; None for 1000 of rows and 10,000 of clusters. Groups that
    share prompts or scenarios share their resamples. The log warns of a group in which only some
    texts have a cluster: its rows are resampled. Raises BadInput for numbers of rollouts asked for
    that the texts contradict.
    """
    groups: dict[Group, list[ScoredText]] = {}
    for text in texts:
        groups.setdefault(text.group, []).append(text)
    clustered = {
        group: _labels(members)
        for group, members in groups.items()
        if _has_clusters(group, members)
    }
    resampled = ResampledMetrics(label_metrics(clustered), seed, resamples or CLUSTER_RESAMPLES)
    intervals = {group: resampled.estimate((group, "macro_f1")) for group in clustered}
    rows = resamples or classification.ROW_RESAMPLES
    return [_score(g, members, intervals.get(g), seed, rows) for g, members in groups.items()]


def _has_clusters(group: Group, texts: Sequence[ScoredText]) -> bool:
    """Whether every text has a cluster; the log says where only some have."""
    missing = [text.place for text in texts if text.cluster is None]
    if 0 < len(missing) < len(texts):
        log.warning(
            "%s: %d of %d texts have no prompt or scenario, first %s; its interval is that of "
            "resampled rows",
            *(printable(_name(group)), len(missing), len(texts), printable(missing[0])),
        )
    return not missing


def _score(
    group: Group,
    texts: Sequence[ScoredText],
    clusters: Estimate | None,
    seed: int,
    resamples: int,
) -> GroupScore:
    labels = _labels(texts)
    rows = classification.macro_f1(labels.true, labels.predicted, seed, resamples)
    envelope = macro_f1_envelope(labels) if labels.shared else None
    names, counts = classification.confusion(labels.true, labels.predicted)
    asked = _asked(group, texts)
    return GroupScore(
        group=group,
        n=len(texts),
        accuracy=float(classification.accuracies(counts[None])[0]),
        macro_f1=rows.value,
        ci=(envelope or clusters or rows).ends,
        interval="envelope" if envelope else "cluster" if clusters else "rows",
        ci_rows=rows.ends,
        ci_cluster=clusters.ends if clusters else None,
        per_persona=classification.per_class(labels.true, labels.predicted),
        confusion=classification.Confusion(names, counts.tolist()),
        calibration=_calibration(texts),
        human=_human_agreement(texts),
        asked=asked,
        yield_=len(texts) / asked if asked else None,
        bounds=_bounds(group, texts, labels, asked) if asked else None,
    )


def _asked(group: Group, texts: Sequence[ScoredText]) -> int | None:
    """The rollouts asked for in the group, on which all its texts must agree."""
    first = texts[0].asked
    for text in texts:
        if text.asked != first:
            raise BadInput(
                f"{text.place}: --asked: {text.asked} rollouts, after {first} in other rows of "
                f"{_name(group)}; give each group one number"
            )
    return first


def _bounds(
    group: Group, texts: Sequence[ScoredText], labels: classification.Labels, asked: int
) -> Ends:
    missing = missing_by_persona(asked, [text.true for text in texts], _name(group))
    statistic = classification.macro_f1s
    return classification.missing_bounds(labels.true, labels.predicted, missing, statistic)


def _name(group: Group) -> str:
    """The group in messages."""
    return ", ".join(f"{name} {value}" for name, value in group if value) or "the file"


def _labels(texts: Sequence[ScoredText]) -> classification.Labels:
    """A text that is scored against many personas is as many rows of its cluster.

    Without a cluster it is one itself.
    """
    clusters = [f"text {n}" if t.cluster is None else t.cluster for n, t in enumerate(texts)]
    rows = [
        (true, str(text.prediction), cluster)
        for text, cluster in zip(texts, clusters, strict=True)
        for true in text.true
    ]
    shared = len(texts[0].true) > 1 and len({text.true for text in texts}) == 1
    return classification.Labels.of(rows, shared=shared)


def _calibration(texts: Sequence[ScoredText]) -> classification.Calibration | None:
    rows = [(t.true[0], t.probabilities) for t in texts if t.probabilities and len(t.true) == 1]
    return classification.calibration(*zip(*rows, strict=True)) if len(rows) == len(texts) else None


def _human_agreement(texts: Sequence[ScoredText]) -> classification.HumanAgreement | None:
    pairs = ((text.prediction, *pair) for text in texts for pair in text.human.items())
    answers = [(prediction == persona, present) for prediction, persona, present in pairs]
    return classification.human_agreement(*zip(*answers, strict=True)) if answers else None


def group_table(scores: Sequence[GroupScore]) -> Table:
    """The scores as a rich table; columns of rollouts asked for and of humans if there are some."""
    from charprobe_lite.eval.terminal_table import plain_table

    names = list(dict.fromkeys(name for score in scores for name, value in score.group if value))
    asked = any(score.asked for score in scores)
    numbers = ["n", *(["yield"] if asked else []), "accuracy", "macro-F1"]
    numbers += ["95% interval", "resampled", *(["bounds"] if asked else [])]
    labelled = any(score.human for score in scores)
    numbers += ["labelled", "kappa", "hits seen", "hits unseen"] if labelled else []
    table = plain_table(None, [printable(name) for name in names], numbers)
    for score in scores:
        group = dict(score.group)
        table.add_row(
            *(printable(group.get(name, "")) for name in names),
            str(score.n),
            *([f"{score.yield_:.1%} of {score.asked}"] if score.asked else []),
            *(f"{score.accuracy:.3f}", f"{score.macro_f1:.3f}", _ends(score.ci)),
            INTERVALS[score.interval],
            *([_ends(score.bounds)] if score.bounds else []),
            *(_human_cells(score.human) if labelled else []),
        )
    return table


def _ends(ends: Ends) -> str:
    return f"{ends[0]:.3f}-{ends[1]:.3f}"


def _human_cells(human: classification.HumanAgreement | None) -> list[str]:
    if human is None:
        return ["-"] * 4
    kappa = "-" if human.kappa is None else f"{human.kappa:.2f}"
    hits = [f"{part.hits} of {part.n}" for part in (human.present, human.absent)]
    return [str(human.n), kappa, *hits]

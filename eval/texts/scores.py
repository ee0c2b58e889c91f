"""Scores of texts by group: what `charprobe-lite score` prints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from charprobe_lite.eval.stats.bootstrap import CLUSTER_RESAMPLES
from charprobe_lite.eval.stats.classification import (
    ROW_RESAMPLES,
    Calibration,
    ClassScore,
    Confusion,
    HumanAgreement,
    Labels,
    Resampling,
    accuracies,
    agreement,
    calibration,
    confusion,
    macro_f1,
    macro_f1s,
    per_class,
)
from charprobe_lite.eval.texts.reader import ScoredText
from charprobe_lite.models.errors import printable

if TYPE_CHECKING:
    from rich.table import Table

Group = tuple[tuple[str, str], ...]
Ends = tuple[float, float]


@dataclass(frozen=True)
class GroupScore:
    """The scores of one group of texts.

    ``ci`` is macro-F1's interval, of the kind that ``interval`` names: "cluster" where every text
    of the group says which prompt or scenario it came from (``ci_cluster``), else "rows"
    (``ci_rows``, the published one). ``calibration`` stands where every text has probabilities
    and one true label, ``human`` where a human has labelled some.
    """

    group: Group
    n: int
    accuracy: float
    macro_f1: float
    ci: Ends
    interval: str
    ci_rows: Ends
    ci_cluster: Ends | None
    per_persona: dict[str, ClassScore]
    confusion: Confusion
    calibration: Calibration | None
    human: HumanAgreement | None

    def as_json(self) -> dict[str, Any]:
        """The group as ``--json`` prints it: its columns first."""
        scores = asdict(self)
        del scores["group"]
        return {**dict(self.group), **scores}


def score_texts(
    texts: Sequence[ScoredText], seed: int = 0, resamples: int | None = None
) -> list[GroupScore]:
    """One score per group, in the order in which groups come. Every text has its prediction.

    ``resamples`` are those of both intervals; without, 1000 of rows and 10,000 of clusters.
    Groups that share prompts or scenarios share their resamples.
    """
    groups: dict[Group, list[ScoredText]] = {}
    for text in texts:
        groups.setdefault(text.group, []).append(text)
    clustered = {
        group: _labels(own)
        for group, own in groups.items()
        if all(text.cluster is not None for text in own)
    }
    resampling = Resampling(clustered, seed, resamples or CLUSTER_RESAMPLES)
    return [
        _score(group, own, resampling if group in clustered else None, seed, resamples)
        for group, own in groups.items()
    ]


def _score(
    group: Group,
    texts: Sequence[ScoredText],
    resampling: Resampling[Group] | None,
    seed: int,
    resamples: int | None,
) -> GroupScore:
    labels = _labels(texts)
    rows = macro_f1(labels.true, labels.predicted, seed, resamples or ROW_RESAMPLES)
    clusters = resampling.estimate(macro_f1s, group) if resampling else None
    counts = confusion(labels.true, labels.predicted)
    return GroupScore(
        group=group,
        n=len(texts),
        accuracy=float(accuracies(counts[1][None])[0]),
        macro_f1=rows.value,
        ci=(clusters or rows).ends,
        interval="cluster" if clusters else "rows",
        ci_rows=rows.ends,
        ci_cluster=clusters.ends if clusters else None,
        per_persona=per_class(labels.true, labels.predicted),
        confusion=Confusion(counts[0], counts[1].tolist()),
        calibration=_calibration(texts),
        human=_agreement(texts),
    )


def _labels(texts: Sequence[ScoredText]) -> Labels:
    """A text that is scored against several personas is as many rows of its cluster."""
    rows = [(true, str(text.prediction), str(text.cluster)) for text in texts for true in text.true]
    return Labels(*(list(column) for column in zip(*rows, strict=True)))


def _calibration(texts: Sequence[ScoredText]) -> Calibration | None:
    known = [text.probabilities for text in texts if text.probabilities and len(text.true) == 1]
    if len(known) < len(texts):
        return None
    return calibration([text.true[0] for text in texts], known)


def _agreement(texts: Sequence[ScoredText]) -> HumanAgreement | None:
    pairs = [
        (text.prediction == persona, seen) for text in texts for persona, seen in text.human.items()
    ]
    return agreement(*zip(*pairs, strict=True)) if pairs else None


def table(scores: Sequence[GroupScore]) -> Table:
    """The scores as a rich table; human columns only where a human has labelled texts."""
    from rich import box
    from rich.table import Table

    names = list(dict.fromkeys(name for score in scores for name, value in score.group if value))
    labelled = any(score.human for score in scores)
    found = Table(box=box.SIMPLE_HEAD)
    for name in names:
        found.add_column(printable(name), no_wrap=True)
    headings = ["n", "accuracy", "macro-F1", "95% interval", "resampled"]
    for name in headings + (["labelled", "kappa", "hits seen", "hits unseen"] if labelled else []):
        found.add_column(name, justify="right", no_wrap=True)
    for score in scores:
        group = dict(score.group)
        cells = [printable(group.get(name, "")) for name in names]
        cells += [str(score.n), f"{score.accuracy:.3f}", f"{score.macro_f1:.3f}"]
        cells += [f"{score.ci[0]:.3f}-{score.ci[1]:.3f}", _RESAMPLED[score.interval]]
        found.add_row(*cells, *(_human(score.human) if labelled else []))
    return found


_RESAMPLED = {"cluster": "items", "rows": "rows"}


def _human(human: HumanAgreement | None) -> list[str]:
    if human is None:
        return ["-"] * 4
    kappa = "-" if human.kappa is None else f"{human.kappa:.2f}"
    hits = [f"{each.hits} of {each.n}" for each in (human.present, human.absent)]
    return [str(human.n), kappa, *hits]

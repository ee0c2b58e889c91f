"""A study by its other instruments: the same texts, named by something else.

A conclusion that only one instrument carries is about the instrument.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from rich.table import Table

from charprobe_lite.eval.cells import Cell, RolloutKey, Row
from charprobe_lite.eval.scores.cells import Scores, score_study
from charprobe_lite.eval.scores.gap import ClusterOf, Difference, cluster_of
from charprobe_lite.eval.scores.terminal import TOO_FEW, verdict
from charprobe_lite.eval.stats.bootstrap import Estimate
from charprobe_lite.eval.stats.classification import Labels, accuracies, kappas
from charprobe_lite.eval.stats.metrics import (
    FEWEST_CLUSTERS,
    ResampledMetrics,
    label_metric,
    label_names,
)
from charprobe_lite.eval.terminal_table import plain_table

InstrumentLabels = Mapping[RolloutKey, tuple[str, dict[str, float] | None]]
"""Label and probabilities of another instrument, as `Store.labels` returns them."""


@dataclass(frozen=True)
class Agreement:
    """How often two instruments give a text of a trained checkpoint the same label.

    ``kappa`` corrects for chance, None where both give one label to every text. ``by_cell`` has
    the share of each cell, also of those of the base stage and of controls.
    """

    n: int
    agreement: Estimate
    kappa: Estimate | None
    by_cell: dict[Cell, float]

    def as_json(self) -> dict[str, Any]:
        """``n``, ``agreement`` and ``kappa``, with intervals."""
        kappa = self.kappa and self.kappa.as_json()
        return {"n": self.n, "agreement": self.agreement.as_json(), "kappa": kappa}


@dataclass(frozen=True)
class ChangedConclusion:
    """What two instruments say otherwise of ``what``, a difference or the character."""

    what: str
    headline: str
    other: str


@dataclass(frozen=True)
class InstrumentScores:
    """All scores by another instrument, and what it says otherwise than the headline's."""

    name: str
    scores: Scores
    agreement: Agreement | None
    changed: list[ChangedConclusion]

    def as_json(self) -> dict[str, Any]:
        """The scores as the headline's are printed."""
        return {
            "instrument": self.name,
            "cells": [score.as_json() for score in self.scores.by_cell],
            **self.scores.comparison.as_json(),
            "agreement": self.agreement and self.agreement.as_json(),
            "changed": [asdict(change) for change in self.changed],
        }


def score_instruments(
    headline: Scores,
    rows: Sequence[Row],
    labels: Mapping[str, InstrumentLabels],
    personas: Sequence[str],
    seed: int,
    cluster: ClusterOf = cluster_of,
) -> list[InstrumentScores]:
    """The cells of ``headline`` by each instrument that has a label in ``labels``, by its name.

    ``cluster`` names what the intervals resample.
    """
    cells = [score.cell for score in headline.by_cell]
    found = []
    for name, readings in labels.items():
        if not readings:
            continue
        relabelled = relabel(rows, readings)
        scores = score_study(relabelled, cells, personas, seed, cluster)
        agreement = compare_labels(rows, relabelled, seed, cluster)
        changed = changed_conclusions(headline, scores)
        found.append(InstrumentScores(name, scores, agreement, changed))
    return found


def relabel(rows: Sequence[Row], labels: InstrumentLabels) -> list[Row]:
    """The rows with the labels of another instrument, None where it has none."""
    relabelled = []
    for row in rows:
        label, probabilities = labels.get(row.key, (None, None))
        relabelled.append(replace(row, prediction=label, probabilities=probabilities))
    return relabelled


def compare_labels(
    rows: Sequence[Row], others: Sequence[Row], seed: int, cluster: ClusterOf = cluster_of
) -> Agreement | None:
    """The agreement on the texts that both have a label of; None without one."""
    pairs = [
        (row, row.prediction, other.prediction)
        for row, other in zip(rows, others, strict=True)
        if row.prediction is not None and other.prediction is not None
    ]
    trained = [pair for pair in pairs if pair[0].persona and pair[0].cell.quant]
    if not trained:
        return None
    both = Labels.of([(first, other, cluster(row)) for row, first, other in trained])
    names = label_names([both])
    resampled = ResampledMetrics(
        {
            "agreement": label_metric(both, names, accuracies, len(trained)),
            "kappa": label_metric(both, names, kappas),
        },
        seed,
    )
    hits: dict[Cell, list[bool]] = {}
    for row, first, other in pairs:
        hits.setdefault(row.cell.pooled, []).append(first == other)
    return Agreement(
        n=len(trained),
        agreement=resampled.estimate("agreement"),
        kappa=resampled.estimate("kappa") if "kappa" in resampled else None,
        by_cell={cell: sum(same) / len(same) for cell, same in hits.items()},
    )


def changed_conclusions(headline: Scores, other: Scores) -> list[ChangedConclusion]:
    """The differences and the verdict that ``other`` decides otherwise.

    Steps within the base stage are left out, where there is no character to see.
    """
    changed = []
    differences = {_place(d): d for d in _differences(other)}
    for difference in _differences(headline):
        counterpart = differences.get(_place(difference))
        first, second = direction(difference), counterpart and direction(counterpart)
        if second and first != second:
            changed.append(ChangedConclusion(_name(difference), first, second))
    first_verdict, second_verdict = verdict(headline), verdict(other)
    if first_verdict and second_verdict and first_verdict != second_verdict:
        changed.append(ChangedConclusion("conclusion", first_verdict, second_verdict))
    return changed


def direction(difference: Difference) -> str:
    """What a difference shows: "a fall", "a rise", or "neither" where its interval holds 0.

    "too few to say" below FEWEST_CLUSTERS.
    """
    if difference.clusters < FEWEST_CLUSTERS:
        return TOO_FEW
    low, high = difference.change.ends
    return "a fall" if high < 0 else "a rise" if low > 0 else "neither a fall nor a rise"


def instrument_table(name: str, headline: Scores, other: InstrumentScores) -> Table:
    """Every cell by the instrument ``name`` of the headline, and by the other."""
    agreement = other.agreement.by_cell if other.agreement else {}
    title = f"the same texts by {other.name}"
    if other.agreement:
        share = other.agreement.agreement
        title += f" (same label: {share.value:.0%} [{share.low:.0%}, {share.high:.0%}])"
    table = plain_table(title, ["stage", "condition"], [name, other.name, "same label"])
    for first, second in zip(headline.by_cell, other.scores.by_cell, strict=True):
        same = agreement.get(first.cell)
        levels = [
            f"{level.value:.2f} [{level.low:.2f}, {level.high:.2f}]" if level else "-"
            for level in (first.headline, second.headline)
        ]
        shared = "-" if same is None else f"{same:.0%}"
        table.add_row(first.stage, first.label(), *levels, shared)
    return table


def instrument_notes(name: str, other: InstrumentScores) -> list[str]:
    """What the two decide otherwise; a line each, or one that says that there is nothing.

    ``name`` is the headline's instrument.
    """
    if (verdict(other.scores) or "").startswith(TOO_FEW):
        return []
    if not other.changed:
        return [f"No conclusion depends on the instrument, {name} or {other.name}."]
    return [
        f"{change.what}: by {name} {change.headline}, by {other.name} {change.other}"
        for change in other.changed
    ]


def _differences(scores: Scores) -> list[Difference]:
    found = [*scores.comparison.steps, *scores.comparison.stages]
    return [difference for difference in found if difference.after.stage != "base"]


def _place(difference: Difference) -> tuple[Cell, Cell]:
    return difference.before, difference.after


def _name(difference: Difference) -> str:
    before, after = difference.before, difference.after
    if before.stage == after.stage:
        return f"{before.stage}, {before.label} to {after.label}"
    return f"{before.label}, stage {before.stage} to {after.stage}"

"""Where character is lost: steps from chat to agent, stages, retention, bounds.

Each step changes one thing, see `CAUSES`: the email as a form, JSON, the agent's rules, the tools
with their lookups, the loop.
Every number has its interval from one `ResampledMetrics`, so a step between conditions over the
same scenarios is a paired difference. Cells are compared over the personas that all of them have a
classified text of.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain, pairwise
from typing import Any

import numpy as np

from charprobe_lite.eval.cells import Cell, Row
from charprobe_lite.eval.stats.bootstrap import Estimate
from charprobe_lite.eval.stats.classification import Labels, missing_bounds, shared_classes
from charprobe_lite.eval.stats.envelope import envelope_difference, macro_f1_envelope
from charprobe_lite.eval.stats.metrics import (
    LABEL_STATISTICS,
    ResampledMetrics,
    label_metric,
    label_names,
)
from charprobe_lite.models.axes import AXIS_CEILINGS
from charprobe_lite.models.catalogue import STAGES
from charprobe_lite.models.task_ids import task_of

CAUSES = {
    "chat": "",
    "chat_email": "email form",
    "chat_email_json": "JSON",
    "chat_email_rules": "agent's rules",
    "agentic_next": "tools and lookups",
    "agentic_email": "loop",
}
"""What each condition on the way from chat to agent changes about the one before it."""
CONDITION_STEPS = tuple(CAUSES)
DEPTH_CAUSES = {
    "chat_depth_0": "",
    "chat_depth_4": "4 turns before",
    "chat_depth_12": "8 more turns",
    "chat_depth_24": "12 more turns",
}
"""What each depth changes about the one before it: the same prompts after a longer conversation."""
DEPTH_STEPS = tuple(DEPTH_CAUSES)
BREAK_CHARACTER = "break_character"
CEILINGS = ("scenario_ceiling", "author_ceiling")
"""The controls that bound what the classifier sees in emails, the independent one first."""
CellMetrics = ResampledMetrics[tuple[Cell, str]]
"""Accuracy and macro-F1 of cells, as `label_metrics` names them."""
ClusterOf = Callable[[Row], str]
"""Names what is resampled as one with a row, `cluster_of` or families of scenarios."""


@dataclass(frozen=True)
class CellPair:
    """Two cells to compare, and what changes between them, such as "format + scaffold"."""

    before: Cell
    after: Cell
    cause: str


@dataclass(frozen=True)
class Difference(CellPair):
    """``after`` minus ``before``, and the level of each.

    All are over ``personas``, those that both cells have a classified text of; None for all of
    the study. ``clusters`` counts the prompts or scenarios of the cell that has fewer.
    """

    change: Estimate
    levels: tuple[Estimate, Estimate]
    personas: list[str] | None
    clusters: int


@dataclass(frozen=True)
class Retention(Estimate):
    """Retention over the ``personas`` that all three cells have a text of, as in `Difference`.

    ``ceiling`` is the control that it is measured against, one of `CEILINGS` or `AXIS_CEILINGS`.
    """

    personas: list[str] | None
    ceiling: str


@dataclass(frozen=True)
class Comparison:
    """Differences between the cells of a study.

    ``steps``: from condition to condition within a stage, with ``total`` for the sum where there
    is more than one. ``stages``: from one stage to the next within a condition. ``retention`` by
    cell; ``ceilings``: the classifier on texts that are certainly in character, by cell. The
    metric is macro-F1, or the detection rate for one persona. ``unshared`` are pairs that no
    persona has a text on both sides of, so they have no difference.
    """

    steps: list[Difference]
    stages: list[Difference]
    retention: dict[Cell, Retention]
    ceilings: dict[Cell, Estimate]
    unshared: list[CellPair]

    def as_json(self) -> dict[str, Any]:
        """``gap``, ``stages`` and ``ceilings``, as ``--json`` prints them."""
        return {
            "gap": [difference_json(step, "condition") for step in self.steps],
            "stages": [difference_json(step, "stage") for step in self.stages],
            "ceilings": [_cell_json(*pair) for pair in self.ceilings.items()],
        }


def cluster_of(row: Row) -> str:
    """The prompt or scenario of a row.

    A prompt with another suffix is the same prompt; the chat and agent versions of a published
    scenario are one task.
    """
    if row.cell.condition == BREAK_CHARACTER:
        return row.item.rpartition("+")[0] or row.item
    return task_of(row.item)


def labels_of(
    rows: Sequence[Row], personas: Sequence[str], cluster: ClusterOf = cluster_of
) -> dict[Cell, Labels]:
    """The classified samples by cell; a base-stage sample is a row for every persona.

    Cells that differ in the training seed alone are one.
    """
    cells: dict[Cell, list[tuple[str, str, str]]] = {}
    seeds: dict[Cell, list[int | None]] = {}
    owned = {row.cell.pooled for row in rows if row.persona}
    for row in rows:
        if row.prediction is not None:
            for persona in _truths(row, personas):
                entry = (persona, row.prediction, cluster(row))
                cells.setdefault(row.cell.pooled, []).append(entry)
                seeds.setdefault(row.cell.pooled, []).append(row.cell.train_seed)
    return {
        cell: Labels.of(entries, shared=cell not in owned, train_seeds=seeds[cell])
        for cell, entries in cells.items()
    }


def headline_metric(personas: Sequence[str]) -> str:
    """Which of `LABEL_STATISTICS` measures several personas, or one."""
    return "macro_f1" if len(personas) > 1 else "accuracy"


@dataclass(frozen=True)
class SharedMetric:
    """The headline metric of cells, over the personas that all cells of a comparison have."""

    resampled: CellMetrics
    labels: Mapping[Cell, Labels]
    personas: Sequence[str]

    @property
    def metric(self) -> str:
        """The name of the metric over all personas."""
        return headline_metric(self.personas)

    def shared(self, cells: Iterable[Cell]) -> list[str]:
        """The personas that all ``cells`` have a classified text of, in the study's order."""
        classes = shared_classes(self.labels[cell] for cell in cells)
        return [persona for persona in self.personas if persona in classes]

    def named(self, personas: list[str]) -> list[str] | None:
        """The personas where they are not all of the study's."""
        return personas if len(personas) < len(self.personas) else None

    def key(self, cell: Cell, personas: Sequence[str]) -> tuple[Cell, str]:
        """Names the metric of a cell over some of the personas that it has texts of."""
        whole, labels = (cell, self.metric), self.labels[cell]
        if set(personas) == set(labels.true):
            return whole
        key, part = (cell, f"{self.metric} of {','.join(personas)}"), labels.of_classes(personas)
        if key not in self.resampled.metrics:
            statistic, count = LABEL_STATISTICS[self.metric], len(set(part.cluster))
            metric = label_metric(part, label_names([part]), statistic, count)
            self.resampled.add_part(key, whole, metric)
        return key

    def level(self, cell: Cell, personas: Sequence[str]) -> Estimate:
        """The metric of a cell over some of the personas that it has texts of."""
        if self.has_envelope(cell):
            return macro_f1_envelope(self.labels[cell].of_classes(personas))
        return self.resampled.estimate(self.key(cell, personas))

    def has_envelope(self, cell: Cell) -> bool:
        """Whether resamples say too little about a cell: see `macro_f1_envelope`."""
        return self.labels[cell].shared and self.metric == "macro_f1"

    def difference(self, pair: CellPair) -> Difference | None:
        """The difference of a pair; None where no persona is shared."""
        personas = self.shared((pair.before, pair.after))
        if not personas:
            return None
        before, after = (self.key(cell, personas) for cell in (pair.before, pair.after))
        change = self.resampled.difference(after, before).change
        levels = self.level(pair.before, personas), self.level(pair.after, personas)
        if self.has_envelope(pair.before) and self.has_envelope(pair.after):
            change = envelope_difference(levels[1], levels[0])
        clusters = self.resampled.bootstrap.cluster_count([before, after])
        named = self.named(personas)
        return Difference(
            pair.before, pair.after, pair.cause, change, levels, named, clusters=clusters
        )


def compare(
    resampled: CellMetrics, labels: Mapping[Cell, Labels], personas: Sequence[str]
) -> Comparison:
    """Differences between the cells of ``labels``, whose metrics ``resampled`` holds."""
    metric, cells = SharedMetric(resampled, labels, personas), list(labels)
    steps, stages = _steps(cells), _stages(cells)
    differences = {pair: metric.difference(pair) for pair in (*steps, *stages)}
    ceilings = [*ceilings_of(cells), *axis_ceilings_of(cells)]
    return Comparison(
        steps=[found for pair in steps if (found := differences[pair])],
        stages=[found for pair in stages if (found := differences[pair])],
        retention=_retention(metric, cells),
        ceilings={cell: resampled.estimate((cell, metric.metric)) for cell in ceilings},
        unshared=[pair for pair, found in differences.items() if found is None],
    )


def bounds(rows: Sequence[Row], personas: Sequence[str]) -> tuple[float, float] | None:
    """A cell's metric if every rollout without a text is a miss, and if every one is a hit.

    See `missing_bounds`; in the base stage a hit counts for every persona at once, which no single
    email can be. Both ends are over every persona with a rollout, also one whose emails are all
    missing. None for a cell without a rollout.
    """
    pairs = [
        (persona, row.prediction)
        for row in rows
        for persona in _truths(row, personas)
        if row.prediction is not None or row.text is None
    ]
    if not pairs:
        return None
    seen = [(persona, label) for persona, label in pairs if label is not None]
    true, predicted = [persona for persona, _ in seen], [label for _, label in seen]
    missing = Counter(persona for persona, label in pairs if label is None)
    return missing_bounds(true, predicted, missing, LABEL_STATISTICS[headline_metric(personas)])


def condition_chains(
    cells: Sequence[Cell], conditions: Sequence[str] = CONDITION_STEPS
) -> list[list[Cell]]:
    """Each stage's cells in the order of ``conditions``, one chain per tool-call setting.

    Cells that call no tools are part of every chain of their stage.
    """
    stages: dict[Cell, list[Cell]] = {}
    for cell in cells:
        if cell.condition in conditions:
            checkpoint = replace(cell.pooled, condition="", format=None, grammar=None)
            stages.setdefault(checkpoint, []).append(cell)
    chains = []
    for stage in stages.values():
        stage.sort(key=lambda cell: conditions.index(cell.condition))
        settings = dict.fromkeys(filter(any, map(_tool_calls, stage)))
        chains += [
            [cell for cell in stage if _tool_calls(cell) == setting or not any(_tool_calls(cell))]
            for setting in settings or [()]
        ]
    return chains


def ceilings_of(cells: Sequence[Cell]) -> list[Cell]:
    """The controls that bound what is seen in emails: independent writers, loud, subtle."""
    ceilings = [cell for cell in cells if cell.condition in CEILINGS]
    return sorted(ceilings, key=lambda cell: (CEILINGS.index(cell.condition), cell.stage))


def axis_ceilings_of(cells: Sequence[Cell]) -> list[Cell]:
    """The controls that bound what is seen in other texts than emails."""
    return [cell for cell in cells if cell.condition in AXIS_CEILINGS.values()]


def _truths(row: Row, personas: Sequence[str]) -> Sequence[str]:
    """The personas that a row is scored against: its own, or all of them in the base stage."""
    if not row.persona:
        return personas
    return [row.persona] if row.persona in personas else []


def _tool_calls(cell: Cell) -> tuple[str | None, ...]:
    return cell.format, cell.grammar


def _steps(cells: Sequence[Cell]) -> list[CellPair]:
    pairs = []
    for causes in (CAUSES, DEPTH_CAUSES):
        for path in condition_chains(cells, tuple(causes)):
            steps = [CellPair(*ends, _cause(*ends, causes)) for ends in pairwise(path)]
            pairs += [*steps, CellPair(path[0], path[-1], "total")] if len(steps) > 1 else steps
    return pairs


def _cause(before: Cell, after: Cell, causes: Mapping[str, str]) -> str:
    """What a step changes; conditions that are missing between the two add their causes."""
    names = list(causes)
    steps = names[names.index(before.condition) + 1 : names.index(after.condition) + 1]
    return " + ".join(causes[condition] for condition in steps)


def _stages(cells: Sequence[Cell]) -> list[CellPair]:
    chains = [
        [cell for cell in map(template.at, STAGES) if cell in cells]
        for template in dict.fromkeys(replace(cell, stage="") for cell in cells)
    ]
    return [
        CellPair(before, after, f"{before.stage} to {after.stage}")
        for before, after in chain.from_iterable(map(pairwise, chains))
    ]


def _retention(metric: SharedMetric, cells: Sequence[Cell]) -> dict[Cell, Retention]:
    """`retention_of` trained cells, against the first ceiling of `ceilings_for`.

    For emails that is the one of the scenarios, if the study has it, which is paired with the
    agent's emails scenario by scenario.
    """
    controls = {*ceilings_of(cells), *axis_ceilings_of(cells)}
    retention = {}
    for cell in cells:
        ceiling = next(iter(ceilings_for(cell, cells)), None)
        if ceiling and cell not in controls and (found := retention_of(metric, cell, ceiling)):
            retention[cell] = found
    return retention


def ceilings_for(cell: Cell, cells: Sequence[Cell]) -> list[Cell]:
    """The controls among ``cells`` that a cell is measured against, the independent one first.

    Those of emails, but for conditions of `AXIS_CEILINGS`: there that of the same kind of text.
    """
    name = AXIS_CEILINGS.get(cell.condition)
    controls = ceilings_of(cells) if name is None else axis_ceilings_of(cells)
    return [
        control
        for control in controls
        if control.base == cell.base and name in (None, control.condition)
    ]


def retention_of(metric: SharedMetric, cell: Cell, ceiling: Cell) -> Retention | None:
    """(score - base stage's) / (ceiling - base stage's) of a trained cell, 1 for all of it.

    A ceiling is made of emails, so a chat can retain more than 1. None without a base stage, where
    the ceiling is not above it, as are such resamples, and where the three cells share no persona.
    """
    base = cell.at("base")
    if cell.stage == "base" or base not in metric.labels:
        return None
    personas = metric.shared((cell, base, ceiling))
    if not personas:
        return None
    names = [metric.key(place, personas) for place in (cell, base, ceiling)]
    score, floor, top = map(metric.resampled.replicates, names)
    room = top - floor
    share = (score - floor) / np.where(room > 0, room, np.nan)
    estimate = metric.resampled.interval(share, names)
    if not np.isfinite(estimate.value):
        return None
    return Retention(estimate.value, *estimate.ends, metric.named(personas), ceiling.condition)


def difference_json(difference: Difference, field: str) -> dict[str, Any]:
    """``field`` is what differs: it has a value before and one after."""
    entry = _cell_json(difference.before, difference.change)
    ends = {"from": entry.pop(field), "to": getattr(difference.after, field)}
    # between stages only the later one says how the adapter came about
    entry |= {name: getattr(difference.after, name) for name in ("lora", "technique")}
    entry |= {**ends, "cause": difference.cause}
    return entry if difference.personas is None else {**entry, "personas": difference.personas}


def _cell_json(cell: Cell, estimate: Estimate) -> dict[str, Any]:
    return {**asdict(cell), "value": estimate.value, "ci": estimate.ends}

"""Where character is lost: the gap between chat and agent in steps, stages, retention, bounds.

Each step of the ladder changes one thing: from a chat to an email that is asked for without tools
(the format), to the last turn of a trajectory that is already there (the scaffold's text), to the
full tool loop (the loop). Every number comes with its interval from one `Resampling`, so that a
step between conditions over the same scenarios is a paired difference.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charprobe_lite.eval.cells import Cell, Row
from charprobe_lite.eval.stats.bootstrap import Estimate
from charprobe_lite.eval.stats.classification import (
    Counts,
    Labels,
    Resampling,
    accuracies,
    confusion,
    macro_f1s,
)
from charprobe_lite.models.catalogue import STAGES

CONDITION_STEPS = ("chat", "chat_email", "agentic_next", "agentic_email")
CAUSES = {"chat_email": "format", "agentic_next": "scaffold", "agentic_email": "loop"}
BREAK_CHARACTER = "break_character"
CEILING = "classifier_ceiling"
Statistic = Callable[[Counts], NDArray[np.float64]]
MISSED = ""
"""What a missing email counts as where it counts as a miss: no persona."""


@dataclass(frozen=True)
class Difference:
    """``after`` minus ``before``, and what lies between them, such as "format + scaffold"."""

    before: Cell
    after: Cell
    cause: str
    change: Estimate


@dataclass(frozen=True)
class Comparison:
    """Differences between the cells of a study.

    ``steps``: down the ladder within a stage, with ``total`` for all of it where there is more
    than one step. ``stages``: from one stage to the next within a condition. ``retention`` by
    cell; ``ceilings``: the classifier on its teachers' own emails, by cell. The measure is
    macro-F1, or the detection rate for one persona.
    """

    steps: list[Difference]
    stages: list[Difference]
    retention: dict[Cell, Estimate]
    ceilings: dict[Cell, Estimate]


def labels_of(rows: Sequence[Row], personas: Sequence[str]) -> dict[Cell, Labels]:
    """The classified samples by cell; a base-stage sample is a row for every persona."""
    columns: dict[Cell, list[tuple[str, str, str]]] = {}
    for row in rows:
        if row.prediction is None:
            continue
        for persona in _truths(row, personas):
            columns.setdefault(row.cell, []).append((persona, row.prediction, cluster_of(row)))
    return {
        cell: Labels(*(list(column) for column in zip(*found, strict=True)))
        for cell, found in columns.items()
    }


def cluster_of(row: Row) -> str:
    """The prompt or scenario of a row; a prompt with another suffix is the same prompt."""
    if row.cell.condition == BREAK_CHARACTER:
        return row.item.rpartition("+")[0] or row.item
    return row.item


def compare(resampling: Resampling[Cell], cells: Sequence[Cell], several: bool) -> Comparison:
    """What the cells say about each other; ``several`` personas are measured by macro-F1.

    ``cells`` are those of ``resampling``; what a study lacks is left out.
    """
    measure = _measure(several)
    return Comparison(
        steps=_steps(resampling, cells, measure),
        stages=_stages(resampling, cells, measure),
        retention=_retention(resampling, cells, measure),
        ceilings={cell: resampling.estimate(measure, cell) for cell in cells if _is_ceiling(cell)},
    )


def comparison_json(comparison: Comparison) -> dict[str, Any]:
    """The comparison as ``--json`` prints it: ``gap``, ``stages`` and ``ceilings``."""

    def entry(cell: Cell, estimate: Estimate) -> dict[str, Any]:
        return {**asdict(cell), "value": estimate.value, "ci": estimate.ends}

    def step(each: Difference, field: str) -> dict[str, Any]:
        both = {"from": getattr(each.before, field), "to": getattr(each.after, field)}
        # between stages only the later one says how the adapter came to the base
        way = {"lora": each.after.lora}
        return {**entry(each.before, each.change), **way, **both, "cause": each.cause}

    return {
        "gap": [_without(step(each, "condition"), "condition") for each in comparison.steps],
        "stages": [_without(step(each, "stage"), "stage") for each in comparison.stages],
        "ceilings": [entry(*pair) for pair in comparison.ceilings.items()],
    }


def _without(entry: dict[str, Any], field: str) -> dict[str, Any]:
    return {name: value for name, value in entry.items() if name != field}


def bounds(
    rows: Sequence[Row], personas: Sequence[str], several: bool
) -> tuple[float, float] | None:
    """A cell's measure if every rollout without a text is a miss, and if every one is a hit.

    The lower end counts it as a row of its persona in which no persona was found. It is not the
    least possible: a misread email would also lower another persona's precision. The upper end
    counts it as its own persona; in the base stage as every persona at once, which no single
    email can be. Worst-case bounds for missing outcomes in the manner of Manski (1990, American
    Economic Review 80:319). None for a cell without a rollout.
    """
    pairs = [
        (persona, row.prediction)
        for row in rows
        for persona in _truths(row, personas)
        if row.prediction is not None or row.text is None
    ]
    if not pairs:
        return None
    true = [persona for persona, _ in pairs]
    missed = [MISSED if found is None else found for _, found in pairs]
    hit = [persona if found is None else found for persona, found in pairs]
    low, high = (
        float(_measure(several)(confusion(true, found)[1][None])[0]) for found in (missed, hit)
    )
    return low, high


def _measure(several: bool) -> Statistic:
    return macro_f1s if several else accuracies


def _truths(row: Row, personas: Sequence[str]) -> Sequence[str]:
    """The personas that a row is scored against: its own, or all of them in the base stage."""
    if not row.persona:
        return personas
    return [row.persona] if row.persona in personas else []


def _steps(
    resampling: Resampling[Cell], cells: Sequence[Cell], measure: Statistic
) -> list[Difference]:
    found = []
    for ladder in condition_chains(cells):
        steps = [(*ends, _cause(*ends)) for ends in pairwise(ladder)]
        if len(steps) > 1:
            steps.append((ladder[0], ladder[-1], "total"))
        found += [_difference(resampling, *step, measure) for step in steps]
    return found


def condition_chains(cells: Sequence[Cell]) -> list[list[Cell]]:
    """Each stage's cells in the order of the ladder, once for every way to ask for tool calls.

    Only the last ones of such a list call tools.
    """
    stages: dict[tuple[str, ...], list[Cell]] = {}
    for cell in cells:
        if cell.condition in CONDITION_STEPS:
            stages.setdefault((cell.base, cell.stage, cell.quant, cell.lora), []).append(cell)
    condition_chains = []
    for there in stages.values():
        there.sort(key=lambda cell: CONDITION_STEPS.index(cell.condition))
        variants = dict.fromkeys(filter(any, map(_variant, there)))
        condition_chains += [
            [cell for cell in there if _variant(cell) == variant or not any(_variant(cell))]
            for variant in variants or [()]
        ]
    return condition_chains


def _variant(cell: Cell) -> tuple[str, ...]:
    """How tool calls are asked for."""
    return cell.format, cell.grammar


def _cause(before: Cell, after: Cell) -> str:
    """What a step changes; where conditions between the two are missing, all of it."""
    first, last = (CONDITION_STEPS.index(cell.condition) for cell in (before, after))
    return " + ".join(CAUSES[name] for name in CONDITION_STEPS[first + 1 : last + 1])


def _stages(
    resampling: Resampling[Cell], cells: Sequence[Cell], measure: Statistic
) -> list[Difference]:
    found = []
    for first in dict.fromkeys(replace(cell, stage="") for cell in cells):
        there = [first.at(stage) for stage in STAGES]
        for before, after in pairwise([cell for cell in there if cell in cells]):
            cause = f"{before.stage} to {after.stage}"
            found.append(_difference(resampling, before, after, cause, measure))
    return found


def _difference(
    resampling: Resampling[Cell], before: Cell, after: Cell, cause: str, measure: Statistic
) -> Difference:
    change = resampling.estimate(lambda a, b: measure(b) - measure(a), before, after)
    return Difference(before, after, cause, change)


def _retention(
    resampling: Resampling[Cell], cells: Sequence[Cell], measure: Statistic
) -> dict[Cell, Estimate]:
    """(score - base stage's) / (ceiling - base stage's) of trained cells, 1 for all of it.

    The ceiling is made of emails, so in a chat more than 1 can be retained; of two teachers the
    loud one is taken. Left out where the ceiling is not above the base stage; resamples in which
    it is not do not count either.
    """

    def share(own: Counts, base: Counts, ceiling: Counts) -> NDArray[np.float64]:
        floor = measure(base)
        room = measure(ceiling) - floor
        return (measure(own) - floor) / np.where(room > 0, room, np.nan)

    ceilings = sorted(filter(_is_ceiling, cells), key=lambda cell: cell.stage)  # loud before subtle
    found = {}
    for cell in cells:
        base = cell.at("base")
        ceiling = next((each for each in ceilings if each.base == cell.base), None)
        if cell.stage == "base" or _is_ceiling(cell) or ceiling is None or base not in cells:
            continue
        estimate = resampling.estimate(share, cell, base, ceiling)
        if np.isfinite(estimate.value):
            found[cell] = estimate
    return found


def _is_ceiling(cell: Cell) -> bool:
    return cell.condition == CEILING

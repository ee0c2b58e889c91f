"""The way of a stage from chat to agent: the level of each condition, the change of each step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from charprobe_lite.eval.cells import Cell
from charprobe_lite.eval.scores.gap import (
    CONDITION_STEPS,
    Comparison,
    Difference,
    Retention,
    SharedMetric,
    ceilings_for,
    condition_chains,
    difference_json,
    retention_of,
)
from charprobe_lite.eval.stats.bootstrap import Estimate

CHAIN = (
    "base",
    "stage",
    "quant",
    "format",
    "grammar",
    "lora",
    "train_seed",
    "kv_type",
    "technique",
)
"""What the cells of a chain have in common; those that call no tools lack format and grammar."""


@dataclass(frozen=True)
class Level:
    """The metric of a cell; over ``personas``, None for all of the study."""

    cell: Cell
    estimate: Estimate
    personas: list[str] | None


@dataclass(frozen=True)
class Waterfall:
    """The conditions of one stage in the order of `CONDITION_STEPS`, or of `DEPTH_STEPS`.

    ``steps`` has the change to each of ``levels`` but the first, None where the two share no
    persona; ``total`` is that from first to last. ``retention``, by ceiling, is that of the last
    condition; empty without a ceiling or a base stage.
    """

    levels: list[Level]
    steps: list[Difference | None]
    total: Difference | None
    retention: dict[Cell, Retention]

    @property
    def cell(self) -> Cell:
        """The last cell: that of the agent."""
        return self.levels[-1].cell

    def as_json(self) -> dict[str, Any]:
        """One entry of ``waterfall`` in ``score --json``."""
        return {
            **{name: getattr(self.cell, name) for name in CHAIN},
            "levels": [_level_json(level) for level in self.levels],
            "steps": [difference_json(step, "condition") for step in self.steps if step],
            "total": self.total and difference_json(self.total, "condition"),
            "retention": [_retention_json(*pair) for pair in self.retention.items()],
        }


def waterfalls(
    metric: SharedMetric,
    comparison: Comparison,
    headlines: Mapping[Cell, Estimate],
    conditions: Sequence[str] = CONDITION_STEPS,
) -> list[Waterfall]:
    """The waterfall of every stage that has two of ``conditions``, or more, with a classified text.

    ``comparison`` has the differences of the cells of ``metric``, ``headlines`` their levels.
    """
    cells = list(metric.labels)
    changes = {(step.before, step.after): step for step in comparison.steps}
    return [
        Waterfall(
            levels=[Level(cell, headlines[cell], _named(metric, cell)) for cell in chain],
            steps=[changes.get(pair) for pair in pairwise(chain)],
            total=changes.get((chain[0], chain[-1])),
            retention=_retentions(metric, chain[-1], ceilings_for(chain[-1], cells)),
        )
        for chain in condition_chains(cells, conditions)
        if len(chain) > 1
    ]


def _named(metric: SharedMetric, cell: Cell) -> list[str] | None:
    return metric.named(metric.shared([cell]))


def _retentions(
    metric: SharedMetric, cell: Cell, ceilings: Sequence[Cell]
) -> dict[Cell, Retention]:
    found = {ceiling: retention_of(metric, cell, ceiling) for ceiling in ceilings}
    return {ceiling: retention for ceiling, retention in found.items() if retention}


def _level_json(level: Level) -> dict[str, Any]:
    personas = {} if level.personas is None else {"personas": level.personas}
    entry = {"condition": level.cell.condition, "value": level.estimate.value}
    return {**entry, "ci": level.estimate.ends, **personas}


def _retention_json(ceiling: Cell, retention: Retention) -> dict[str, Any]:
    entry = {"ceiling": ceiling.condition, "stage": ceiling.stage, "value": retention.value}
    personas = {} if retention.personas is None else {"personas": retention.personas}
    return {**entry, "ci": retention.ends, **personas}

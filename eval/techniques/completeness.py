"""What a study of techniques still lacks of its plan: rollouts of adapters, labels of texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import product

from charprobe_lite.eval.cells import Cell, Row
from charprobe_lite.eval.techniques.outcomes import BASE, technique_of
from charprobe_lite.eval.techniques.registration import Plan
from charprobe_lite.eval.techniques.trainings import WHOLE

Adapter = tuple[str, str | None, int | None]
"""Technique, persona and training seed; None for the last two of the base."""


def adapter_of(cell: Cell, persona: str | None) -> tuple[Adapter, int]:
    """The adapter of a rollout, and the percentage of the budget after which it is."""
    name, percent = technique_of(cell)
    return (name, persona, cell.train_seed), percent


def rollouts_of_adapter(rows: Sequence[Row], plan: Plan) -> dict[str, int]:
    """How many rollouts the plan has for each adapter, by condition.

    In a study of before that was recorded, as many as there are different prompts or scenarios.
    """
    if plan.rollouts:
        return {condition: plan.rollouts.get(condition, 0) for condition in plan.conditions}
    items: dict[str, set[str]] = {condition: set() for condition in plan.conditions}
    for row in rows:
        items[row.cell.condition].add(row.item)
    return {condition: len(found) for condition, found in items.items()}


def missing_rollouts(rows: Sequence[Row], plan: Plan) -> Iterator[str]:
    """A line for each training seed without a rollout, for the base, and for each planned adapter
    that lacks one, also of a checkpoint on its way. ``rows`` are those that the plan names."""
    planned, points = rollouts_of_adapter(rows, plan), _points(rows, plan)
    cells = Counter((row.cell, row.persona) for row in rows)
    total, primary = Counter[Adapter](), Counter[Adapter]()
    for (cell, persona), count in cells.items():
        adapter, percent = adapter_of(cell, persona)
        made = min(count, planned[cell.condition])  # a later grid may have added more
        total[adapter] += made
        if percent in (0, WHOLE) and cell.condition == plan.primary:
            primary[adapter] += made
    begun = {seed for _, _, seed in total}
    seeds = [each for each in plan.train_seeds if each in begun]
    for each in plan.train_seeds:
        if each not in begun:
            yield f"training seed {each}: no rollouts of its adapters"
    adapters: list[Adapter] = [(BASE, None, None)]
    adapters += product(plan.techniques, plan.personas, seeds)
    for adapter in adapters:
        name, persona, seed = adapter
        everything = sum(planned.values()) * (1 if name == BASE else points[name])
        if total[adapter] < everything:
            label = name if name == BASE else f"{name}-{persona}-seed{seed}"
            yield (
                f"{label}: {primary[adapter]} of {planned[plan.primary]} in {plan.primary}, "
                f"{total[adapter]} of {everything} rollouts in all"
                if total[adapter]
                else f"{label}: no rollouts"
            )


def of_begun_adapters(rows: Sequence[Row], plan: Plan) -> list[Row]:
    """The rows of the base, and of the adapters that have a rollout in each condition.

    An adapter whose turn in a condition has not come is no adapter without texts there.
    """
    conditions: dict[Adapter, set[str]] = {}
    for row in rows:
        adapter, percent = adapter_of(row.cell, row.persona)
        if percent == WHOLE:
            conditions.setdefault(adapter, set()).add(row.cell.condition)
    return [
        row
        for row in rows
        if row.cell.stage == BASE
        or conditions.get(adapter_of(row.cell, row.persona)[0]) == set(plan.conditions)
    ]


def missing_labels(rows: Mapping[str, Sequence[Row]], plan: Plan) -> Iterator[str]:
    """A line for each planned instrument that has not labelled every text of ``rows``."""
    texts = sum(row.text is not None for row in next(iter(rows.values()), ()))
    for name in plan.instruments:
        labelled = sum(
            row.text is not None and row.probabilities is not None for row in rows.get(name, ())
        )
        if labelled < texts:
            yield f"{name}: labels of {labelled} of {texts} texts"


def _points(rows: Sequence[Row], plan: Plan) -> dict[str, int]:
    """How many adapters of a training are evaluated; where that is not recorded, that some have."""
    seen = {technique_of(row.cell) for row in rows} | {(name, WHOLE) for name in plan.techniques}
    counts = Counter(name for name, _ in seen)
    return {name: len(plan.points.get(name, ())) or counts[name] for name in plan.techniques}

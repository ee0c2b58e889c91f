"""What a grid costs in time, and the smallest difference that it can find, before it starts."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from charprobe_lite.eval.cells import Row
from charprobe_lite.eval.stats.bootstrap import Floats
from charprobe_lite.eval.stats.detectable import Spread, minimum_detectable, spread_of
from charprobe_lite.eval.store.provenance import headline_instrument
from charprobe_lite.eval.study.grid import in_shard, items_of
from charprobe_lite.eval.study.pace import core_speed, rollout_tokens
from charprobe_lite.eval.study.progress import duration
from charprobe_lite.eval.study.spec import StudySpec
from charprobe_lite.eval.techniques.completeness import adapter_of
from charprobe_lite.eval.techniques.grid import TechniqueGrid
from charprobe_lite.eval.techniques.outcomes import rows_by_instrument, technique_of
from charprobe_lite.eval.techniques.registration import Plan
from charprobe_lite.eval.techniques.trainings import (
    WHOLE,
    Training,
    adapter_folder,
    kept_adapters,
    trainings_of,
)
from charprobe_lite.models.files import read_json

if TYPE_CHECKING:
    from charprobe_lite.convert.train.technique_training import TrainingPlan

SECONDS_PER_TOKEN = 0.0075
"""Core-seconds to train on a token that is read, per 135M weights: docs/techniques.md."""
READ_PER_TRAINED = 1.9
"""Tokens that are read for one that is trained, of the shipped techniques at most."""
TYPICAL = Spread(scenario=0.08, adapter=0.02, rest=0.3)
"""Variances of P(persona), a technique minus sft, on the embedded base: docs/techniques.md.

Scenario and rest together are measured; how they divide, and the adapters', is a guess until
several training seeds have been run.
"""
Source = Literal["measured", "typical"]


@dataclass(frozen=True)
class GridForecast:
    """Trainings and rollouts that are still missing, their seconds, and what can be detected.

    ``training_from`` and ``rollouts_from`` say where a rate comes from: what this grid has done on
    this machine already, or a typical one. ``detectable`` is by one of the ``instruments`` that
    decide, the worst of them, where every agent sends its email; None without a contrast.
    """

    trainings: int
    training_seconds: float
    training_from: Source
    rollouts: int
    rollout_seconds: float
    rollouts_from: Source
    detectable: float | None
    spread_from: Source
    counts_seeds: bool
    instruments: int = 1

    def as_json(self) -> dict[str, Any]:
        """Every field, and the seconds of both together."""
        return {**asdict(self), "seconds": self.training_seconds + self.rollout_seconds}

    def lines(self) -> Iterator[str]:
        """The forecast in words."""
        yield (
            f"training: {self.trainings} adapters, about {duration(self.training_seconds)} "
            f"({self._source(self.training_from, 'adapters')})"
        )
        yield (
            f"evaluation: {self.rollouts} rollouts, about {duration(self.rollout_seconds)} "
            f"({self._source(self.rollouts_from, 'rollouts')})"
        )
        if self.detectable is not None:
            spread = "of this study's rollouts" if self.spread_from == "measured" else "typical"
            luck = "" if self.counts_seeds else "; one seed, so only for these very adapters"
            found = (
                f"a true difference of {self.detectable:.2f} in P(persona) from sft would be found "
                "by one instrument in 80 of 100 such studies"
                if self.detectable <= 1
                else "no difference in P(persona) from sft is large enough to be found in 80 of "
                "100 such studies"
            )
            every = f"; a verdict needs all {self.instruments}" if self.instruments > 1 else ""
            yield f"{found}{every} (spread {spread}{luck})"

    @staticmethod
    def _source(source: Source, what: str) -> str:
        if source == "measured":
            return f"as fast as this grid's {what} so far"
        return "a typical rate, with all cores; torch and llama.cpp differ between machines"


def forecast_grid(
    grid: TechniqueGrid,
    spec: StudySpec,
    parameters: int,
    plans: Mapping[Training, TrainingPlan] | None,
    shard: tuple[int, int] | None,
    texts: Mapping[str, Sequence[Row]],
    plan: Plan,
) -> GridForecast:
    """What is still missing of a grid, or of a part of it.

    ``texts`` are the study's rollouts so far by instrument, as `read_texts` has them. Without
    ``plans`` every adapter counts as read once over.
    """
    rows = next(iter(texts.values()), [])
    trainings = trainings_of(grid, shard)
    missing = [each for each in trainings if not adapter_folder(grid, each).exists()]
    rate, training_from = _training_rate(trainings, grid, parameters, plans)
    total = _rollouts(grid, spec, trainings, plans, shard)
    left = max(0, total - _recorded(rows, trainings, shard))
    pace, rollouts_from = _rollout_pace(rows, grid, spec, parameters)
    spreads = [found for name in plan.instruments if (found := _spread(texts.get(name, ()), plan))]
    scenarios = len(items_of(spec)[plan.primary])
    detectable = [detectable_difference(grid, each, scenarios) for each in spreads or [TYPICAL]]
    return GridForecast(
        trainings=len(missing),
        training_seconds=sum(rate * _read_tokens(each, grid, plans) for each in missing),
        training_from=training_from,
        rollouts=left,
        rollout_seconds=pace * left,
        rollouts_from=rollouts_from,
        detectable=max((each for each in detectable if each is not None), default=None),
        spread_from="measured" if spreads else "typical",
        counts_seeds=len(grid.train_seeds) > 1,
        instruments=len(plan.instruments),
    )


def detectable_difference(grid: TechniqueGrid, spread: Spread, scenarios: int) -> float | None:
    """The smallest true difference from the reference that so many scenarios find."""
    tests = len(grid.contrasted)
    if not tests or len(grid.loaded) < 2 or scenarios < 2:
        return None
    adapters, seeds = len(grid.personas) * len(grid.train_seeds), len(grid.train_seeds)
    freedom = scenarios - 1
    if seeds > 1:
        freedom = min(freedom, len(grid.personas) * (seeds - 1))
    error = spread.error(scenarios, adapters, counts_adapters=seeds > 1)
    return minimum_detectable(error, freedom, 0.05 / tests)


def _read_tokens(
    training: Training, grid: TechniqueGrid, plans: Mapping[Training, TrainingPlan] | None
) -> float:
    """The tokens that a training reads; DPO reads its pairs once more before it starts."""
    if plans is None:
        return READ_PER_TRAINED * grid.tokens
    plan = plans[training]
    read = sum(
        len(example.ids) for step in plan.steps for item in plan.examples(step) for example in item
    )
    pairs = [
        len(example.ids)
        for phase, items in zip(plan.phases, plan.items, strict=True)
        if phase.loss == "dpo"
        for item in items
        for example in item
    ]
    return read + sum(pairs) / 3  # forward alone is a third of forward and backward


def _training_rate(
    trainings: Sequence[Training],
    grid: TechniqueGrid,
    parameters: int,
    plans: Mapping[Training, TrainingPlan] | None,
) -> tuple[float, Source]:
    """Seconds per token that is read: of the adapters that are there, else typical."""
    seconds = tokens = 0.0
    for each in trainings:
        manifest = adapter_folder(grid, each) / "manifest.json"
        noted = read_json(manifest) if manifest.is_file() else None
        took = noted.get("seconds") if isinstance(noted, dict) else None
        if isinstance(took, int | float) and took > 0:
            seconds, tokens = seconds + took, tokens + _read_tokens(each, grid, plans)
    if tokens:
        return seconds / tokens, "measured"
    return SECONDS_PER_TOKEN * parameters / 135e6 / (os.cpu_count() or 1), "typical"


def _rollout_pace(
    rows: Sequence[Row], grid: TechniqueGrid, spec: StudySpec, parameters: int
) -> tuple[float, Source]:
    """Seconds per rollout: of those that have ended, else typical."""
    seconds = [row.seconds for row in rows if row.seconds]
    if len(seconds) >= grid.parallel:
        return sum(seconds) / len(seconds) / grid.parallel, "measured"
    tokens = [
        rollout_tokens(condition, spec.max_tokens)
        for condition, items in items_of(spec).items()
        for _ in items
    ]
    return sum(tokens) / len(tokens) / core_speed(parameters), "typical"


def _rollouts(
    grid: TechniqueGrid,
    spec: StudySpec,
    trainings: Sequence[Training],
    plans: Mapping[Training, TrainingPlan] | None,
    shard: tuple[int, int] | None,
) -> int:
    """Of the base, of which a part has a part, and of every adapter that is evaluated."""
    items = [item for each in items_of(spec).values() for item in each]
    of_base = sum(shard is None or in_shard(shard, None, item.id, 0) for item in items)
    adapters = kept_adapters(plans, grid.checkpoints) if plans else {}
    kept = sum(len(adapters[each]) if plans else grid.checkpoints for each in trainings)
    return of_base + len(items) * kept


def _recorded(
    rows: Sequence[Row], trainings: Sequence[Training], shard: tuple[int, int] | None
) -> int:
    """The rollouts of a part that its study has; it may have those of other parts too."""
    adapters = {(each.technique.name, each.persona, each.seed) for each in trainings}
    return sum(
        adapter_of(row.cell, row.persona)[0] in adapters
        if row.persona
        else shard is None or in_shard(shard, None, row.item, row.sample)
        for row in rows
    )


def _spread(rows: Sequence[Row], plan: Plan) -> Spread | None:
    """Components of P(persona) minus the reference's by one instrument, a mean over contrasts; None
    where there are too few adapters yet."""
    values: dict[tuple[str, str, int | None], dict[str, float]] = {}
    for row in rows:
        name, percent = technique_of(row.cell)
        is_end = percent == WHOLE and row.cell.condition == plan.primary
        if is_end and row.persona and row.probabilities is not None:
            key = (name, row.persona, row.cell.train_seed)
            values.setdefault(key, {})[row.item] = row.probabilities.get(row.persona, 0.0)
    found = []
    for name in plan.contrasted:
        pairs = {
            key[1:]: (texts, other)
            for key, texts in values.items()
            if key[0] == name and (other := values.get((plan.reference or "", *key[1:])))
        }
        personas = [persona for persona, _ in pairs]
        has_seeds = len(set(personas)) < len(personas)
        spread = spread_of(_differences(list(pairs.values())), personas)
        if spread and (has_seeds or len(plan.train_seeds) == 1):
            found.append((spread.scenario, spread.adapter, spread.rest))
    return Spread(*map(float, np.mean(found, axis=0))) if found else None


def _differences(pairs: Sequence[tuple[dict[str, float], dict[str, float]]]) -> Floats:
    """(adapters, scenarios), NaN where one of the two has no text."""
    items = sorted({item for pair in pairs for texts in pair for item in texts})
    rows = [[a.get(item, np.nan) - b.get(item, np.nan) for item in items] for a, b in pairs]
    return np.array(rows).reshape(len(pairs), len(items))


def read_texts(path: Path | None, instruments: Sequence[str]) -> dict[str, list[Row]]:
    """The rollouts of a study that may not be there yet, with the labels of each instrument that
    has some. Raises BadInput."""
    from charprobe_lite.eval.store.database import Store

    if path is None or not path.is_file():
        return {}
    with Store(path, readonly=True) as store:
        headline = headline_instrument(store.provenance())
        labels = {name: store.labels(name) for name in instruments if name != headline}
        return rows_by_instrument(store.rows(), headline, labels)

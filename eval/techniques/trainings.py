"""The trainings of a grid: planned and checked before the first, then done one after another."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from itertools import groupby, product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charprobe_lite.convert.train.techniques import Technique
from charprobe_lite.eval.techniques.grid import TechniqueGrid
from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.files import read_json
from charprobe_lite.models.kit import sha256_file

if TYPE_CHECKING:
    from charprobe_lite.convert.train.technique_training import (
        TechniqueSettings,
        TrainingBase,
        TrainingPlan,
    )

TrainingBar = Callable[[str], AbstractContextManager[Callable[[int, int, float], None]]]
"""Shows the steps and the loss of a training by its name."""
WHOLE = 100
"""The share of the budget, in percent, after which a training ends."""


@dataclass(frozen=True)
class Training:
    """One adapter to train."""

    technique: Technique
    persona: str
    seed: int

    @property
    def name(self) -> str:
        """Its folder's name."""
        return f"{self.technique.name}-{self.persona}-seed{self.seed}"


Plans = Mapping[Training, "TrainingPlan"]


@dataclass(frozen=True)
class Kept:
    """An adapter that is evaluated: trained on ``percent`` of the budget, to the half epoch.

    Before the end the column ``technique`` has -at and the percentage after the name. Half epochs
    do not fall on equal parts, so ``share`` is the part of the training that is really behind it.
    """

    percent: int
    epoch: float
    share: float
    file: str

    def technique(self, name: str) -> str:
        """What the column ``technique`` of its cells holds."""
        return name if self.percent == WHOLE else f"{name}-at{self.percent}"


def trainings_of(grid: TechniqueGrid, shard: tuple[int, int] | None = None) -> list[Training]:
    """All trainings, or those of a part; the techniques of a seed's persona follow each other."""
    everything = [
        Training(technique, persona, seed)
        for seed, persona, technique in product(grid.train_seeds, grid.personas, grid.loaded)
    ]
    if shard is None:
        return everything
    number, of = shard
    if of > len(everything):
        raise BadInput(
            f"--shard {number}/{of}: there are {len(everything)} adapters; use fewer parts"
        )
    return everything[number - 1 :: of]


def in_blocks(trainings: Sequence[Training]) -> Iterator[list[Training]]:
    """The trainings of one seed and persona after the other: they are evaluated together."""
    for _, block in groupby(trainings, key=lambda each: (each.seed, each.persona)):
        yield list(block)


def plan_trainings(grid: TechniqueGrid, base: TrainingBase) -> dict[Training, TrainingPlan]:
    """The plan of every training, all shards'. Raises BadInput where one cannot be trained: texts
    that leak, another budget, a persona without texts."""
    from charprobe_lite.convert.train.technique_plan import plan_steps
    from charprobe_lite.convert.train.technique_training import plan_training

    plans: dict[Training, TrainingPlan] = {}
    first: dict[tuple[str, str], TrainingPlan] = {}
    for training in trainings_of(grid):
        key = training.technique.name, training.persona
        settings = training_settings(grid, training.seed)
        if key not in first:
            plan = plan_training(training.technique, training.persona, base, settings)
            plans[training] = first[key] = plan
            continue
        place = f"technique {key[0]}, persona {key[1]}, train_seed {training.seed}"
        steps = plan_steps(place, first[key].sizes, grid.tokens, training.seed)
        plans[training] = replace(first[key], steps=steps)  # the texts are those of every seed
    return plans


def training_settings(grid: TechniqueGrid, seed: int) -> TechniqueSettings:
    """What is equal for all techniques of a grid, and the seed."""
    from charprobe_lite.convert.train.technique_training import TechniqueSettings

    return TechniqueSettings(grid.tokens, grid.rank, grid.learning_rate, seed, grid.precision)


def kept_adapters(plans: Plans, count: int) -> dict[Training, list[Kept]]:
    """The adapters of each training to evaluate, ``count`` of them or as many as are kept.

    Spread evenly over the trained tokens: the half epoch nearest to each share of the budget, and
    the end. A point that a persona or a seed lacks is left out of the whole technique, as its mean
    over personas needs all of them.
    """
    found = {training: _nearest(plan, count) for training, plan in plans.items()}
    common: dict[str, set[int]] = {}
    for training, kept in found.items():
        percents = {each.percent for each in kept}
        common[training.technique.name] = percents & common.get(training.technique.name, percents)
    return {
        training: [each for each in kept if each.percent in common[training.technique.name]]
        for training, kept in found.items()
    }


def points_of(kept: Mapping[Training, Sequence[Kept]]) -> dict[str, dict[str, float]]:
    """By technique and percentage the share of the training, a mean over personas and seeds."""
    shares: dict[str, dict[str, list[float]]] = {}
    for training, adapters in kept.items():
        points = shares.setdefault(training.technique.name, {})
        for each in adapters:
            points.setdefault(str(each.percent), []).append(each.share)
    return {
        name: {percent: sum(values) / len(values) for percent, values in points.items()}
        for name, points in shares.items()
    }


def _nearest(plan: TrainingPlan, count: int) -> list[Kept]:
    """The half epoch nearest to each of ``count`` equal shares of a training, and the end."""
    from charprobe_lite.convert.train.technique_training import checkpoint_records

    *halves, end = checkpoint_records(plan)
    halves = [record for record in halves if record["step"] < end["step"]]
    kept: dict[str, Kept] = {}
    for number in range(1, count):
        goal = end["trained_tokens"] * number / count
        near = min(halves, key=lambda r: abs(r["trained_tokens"] - goal), default=None)
        apart = near and abs(near["trained_tokens"] - goal)
        # one that is nearer to another share is that share's
        if near and apart <= end["trained_tokens"] / count / 2:
            kept[near["file"]] = _kept(near, round(WHOLE * number / count), end)
    return [*kept.values(), _kept(end, WHOLE, end)]


def _kept(record: Mapping[str, Any], percent: int, end: Mapping[str, Any]) -> Kept:
    share = record["trained_tokens"] / end["trained_tokens"]
    return Kept(percent, record["epoch"], share, record["file"])


def adapter_folder(grid: TechniqueGrid, training: Training) -> Path:
    """Where an adapter is, or will be."""
    assert grid.out is not None, "a grid that was read has a folder"
    return grid.out / training.name


def check_folders(
    trainings: Sequence[Training], grid: TechniqueGrid, base: TrainingBase, plans: Plans
) -> list[Training]:
    """The trainings that are still to be done.

    Raises BadInput for a folder with an adapter of another grid, and for a damaged one.
    """
    return [each for each in trainings if not _is_trained(each, grid, base, plans[each])]


def _is_trained(
    training: Training, grid: TechniqueGrid, base: TrainingBase, plan: TrainingPlan
) -> bool:
    from dataclasses import asdict

    from charprobe_lite.convert.train.technique_training import (
        MANIFEST,
        checkpoint_records,
        phase_records,
        texts_hash,
    )

    folder = adapter_folder(grid, training)
    if not folder.exists():
        return False
    fix = "name another out, or remove the folder"
    manifest = read_json(folder / MANIFEST, fix)
    expected = {
        "technique": training.technique.name,
        "persona": training.persona,
        **asdict(training_settings(grid, training.seed)),
        "base": {"name": base.name, "sha256": sha256_file(base.gguf)},
        "texts_sha256": texts_hash(plan),
        "checkpoints": checkpoint_records(plan),
        "phases": [_without_losses(record) for record in phase_records(plan)],
    }
    if not isinstance(manifest, dict) or not isinstance(manifest.get("phases"), list):
        raise BadInput(f"{folder / MANIFEST}: is no manifest of a training; {fix}")
    manifest["phases"] = [_without_losses(record) for record in manifest["phases"]]
    for name, value in expected.items():
        if manifest.get(name) != value:
            raise BadInput(
                f"{folder / MANIFEST}: field {name}: the adapter was trained with another than "
                f"this grid asks for; {fix}"
            )
    for record in expected["checkpoints"]:
        if not (folder / record["file"]).is_file():
            raise BadInput(f"{folder / record['file']}: is missing; {fix}")
    return True


def _without_losses(record: Any) -> dict[str, Any]:
    return {k: v for k, v in record.items() if k != "losses"} if isinstance(record, dict) else {}


def train_missing(
    missing: Sequence[Training],
    grid: TechniqueGrid,
    base: TrainingBase,
    plans: Plans,
    bar: TrainingBar,
) -> Iterator[Training]:
    """Train one adapter after another, and yield each; a killed one leaves nothing behind."""
    from charprobe_lite.convert.train.technique_training import train_technique

    for number, training in enumerate(missing, start=1):
        settings, folder = training_settings(grid, training.seed), adapter_folder(grid, training)
        with bar(f"{training.name} ({number}/{len(missing)})") as progress:
            train_technique(
                *(training.technique, training.persona, base, settings, folder, progress),
                plans[training],
            )
        yield training

"""A grid from its file to its rollouts: the plan is written, adapters are trained, texts made.

Everything resumes: a finished training is there whole or not at all, and so is a rollout.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from charprobe_lite.eval.cells import Cell
from charprobe_lite.eval.conditions import load_condition
from charprobe_lite.eval.store.database import Store
from charprobe_lite.eval.study.checkpoints import Checkpoint, VariantFiles
from charprobe_lite.eval.study.grid import Task, by_checkpoint, cell_tasks, in_shard, items_of
from charprobe_lite.eval.study.own_models import own_base
from charprobe_lite.eval.study.run import Display, check_study, run_tasks
from charprobe_lite.eval.study.spec import StudySpec, resolve
from charprobe_lite.eval.study.variants import RUNTIME, CheckpointKey, Variant
from charprobe_lite.eval.techniques.bases import evaluation_model, technique_base
from charprobe_lite.eval.techniques.forecast import GridForecast, forecast_grid, read_texts
from charprobe_lite.eval.techniques.grid import TechniqueGrid
from charprobe_lite.eval.techniques.registration import (
    DETECTABLE,
    Departure,
    Plan,
    plan_of,
    register,
)
from charprobe_lite.eval.techniques.trainings import (
    Training,
    TrainingBar,
    adapter_folder,
    check_folders,
    in_blocks,
    kept_adapters,
    plan_trainings,
    points_of,
    train_missing,
    trainings_of,
)
from charprobe_lite.models.catalogue import EMBEDDED, load_catalogue
from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.gguf_header import weight_summary

if TYPE_CHECKING:
    from charprobe_lite.convert.train.technique_training import TrainingBase, TrainingPlan

Shard = tuple[int, int]


@dataclass(frozen=True)
class PlannedGrid:
    """A grid with its plan and its forecast.

    ``is_checked``: every training was planned, so no text leaks and every budget is right. A base
    that has to be fetched or converted first is not.
    """

    grid: TechniqueGrid
    plan: Plan
    forecast: GridForecast
    is_checked: bool


@dataclass(frozen=True)
class GridRun:
    """A grid whose rollouts have all ended: its study, the adapters trained now, departures."""

    study: Path
    trained: list[str]
    left: list[Departure]
    rollouts: int


def plan_grid(grid: TechniqueGrid, shard: Shard | None = None) -> PlannedGrid:
    """What a grid does and costs. Nothing is fetched or trained. Raises BadInput."""
    path = grid.base_path
    is_local = grid.base == EMBEDDED or bool(path and path.is_file())
    spec = resolve(grid.study_spec(path))  # of a folder the file that run makes is not needed yet
    plans = None
    if is_local:
        base = technique_base(grid.base)
        plans = plan_trainings(grid, base)
        check_folders(trainings_of(grid, shard), grid, base, plans)
    plan = _plan(grid, spec, plans)
    texts = read_texts(study_path(grid, shard), plan.instruments)
    forecast = forecast_grid(grid, spec, _parameters(grid), plans, shard, texts, plan)
    return PlannedGrid(grid, plan, forecast, plans is not None)


def run_grid(
    grid: TechniqueGrid, display: Display, bar: TrainingBar, shard: Shard | None = None
) -> GridRun:
    """Train and evaluate what is missing of a grid, or of a part of it: the techniques of a
    training seed's persona are trained and evaluated before those of the next one.

    The plan is in the study before the first rollout. Raises BadInput, before the first training
    where a training cannot be done or a folder holds another adapter.
    """
    prepared = _prepare(grid)
    base, resolved, plans = prepared.base, prepared.resolved, prepared.plans
    trainings, trained = trainings_of(grid, shard), []
    missing = check_folders(trainings, grid, base, plans)
    path, plan = study_path(grid, shard), _plan(grid, resolved, plans)
    texts = read_texts(path, plan.instruments)
    forecast = forecast_grid(grid, resolved, _parameters(grid), plans, shard, texts, plan)
    for line in forecast.lines():
        display.note(line)
    with Store(path) as store:
        left = register(store, plan)
        check_study(store, resolved, _base_files(prepared))
        if not store.rows():
            store.note({DETECTABLE: forecast.detectable})
    for each in left:
        display.note(f"{each.field}: differs from the plan; the report will say so")
    training = train_missing(missing, grid, base, plans, bar)
    for block in in_blocks(trainings):
        trained += [next(training).name for each in block if each in missing]
        files, tasks = _evaluation(grid, prepared, block, shard)
        run_tasks(path, prepared.spec, resolved, [tasks], files, iter(()), display)
    _, tasks = _evaluation(grid, prepared, trainings, shard)
    return GridRun(path, trained, left, len(tasks))


def _plan(
    grid: TechniqueGrid, spec: StudySpec, plans: Mapping[Training, TrainingPlan] | None
) -> Plan:
    """The plan of a grid with its sizes; without ``plans`` the points of the curves are unknown."""
    rollouts = {condition: len(items) for condition, items in items_of(spec).items()}
    points = points_of(kept_adapters(plans, grid.checkpoints)) if plans else None
    return plan_of(grid, spec.instruments, rollouts, points)


def evaluated_tasks(grid: TechniqueGrid, shard: Shard | None = None) -> list[Task]:
    """Every rollout of a grid, or of a part of it, that has ended or not.

    Makes the files of the base where they are not cached. Raises BadInput as `run_grid`.
    """
    return _evaluation(grid, _prepare(grid), trainings_of(grid, shard), shard)[1]


@dataclass(frozen=True)
class _Prepared:
    """What a grid trains on and evaluates on: base, GGUF file, study, the plan of each training."""

    base: TrainingBase
    model: Path
    spec: StudySpec
    resolved: StudySpec
    plans: Mapping[Training, TrainingPlan]


def _prepare(grid: TechniqueGrid) -> _Prepared:
    base = technique_base(grid.base)
    model = evaluation_model(grid.base, grid.quant)
    spec = grid.study_spec(model if grid.base_path else None)
    return _Prepared(base, model, spec, resolve(spec), plan_trainings(grid, base))


def _evaluation(
    grid: TechniqueGrid,
    prepared: _Prepared,
    trainings: Sequence[Training],
    shard: Shard | None,
) -> tuple[VariantFiles, list[Task]]:
    """The files of every adapter that is evaluated, and the rollouts of these and of the base."""
    name, model, spec = prepared.base.name, prepared.model, prepared.resolved
    base = _base_files(prepared)
    cell = Cell(name, "full", "", base.quant, lora=RUNTIME)
    checkpoints = dict(base.checkpoints)
    cells: list[tuple[Cell, str | None]] = [(cell.at("base"), None)]
    adapters = kept_adapters(prepared.plans, grid.checkpoints)
    for each in trainings:
        for kept in adapters[each]:
            technique = kept.technique(each.technique.name)
            key = CheckpointKey("full", each.persona, each.seed, technique)
            adapter = adapter_folder(grid, each) / kept.file
            checkpoints[key] = Checkpoint(model, adapter)
            own = replace(cell, train_seed=each.seed, technique=technique)
            cells.append((own, each.persona))
    variant = replace(base.variant, keys=list(checkpoints))
    tasks = by_checkpoint(_tasks(spec, cells, shard))
    if not tasks:
        raise BadInput("--condition: there is nothing to ask; name other prompts or scenarios")
    return VariantFiles(variant, spec.classifier, checkpoints), tasks


def _base_files(prepared: _Prepared) -> VariantFiles:
    """The files of the base, which is there before the first training."""
    checkpoints = {CheckpointKey("base", prepared.resolved.personas[0]): Checkpoint(prepared.model)}
    quant = weight_summary(prepared.model).name
    variant = Variant(prepared.base.name, quant, RUNTIME, list(checkpoints))
    return VariantFiles(variant, prepared.resolved.classifier, checkpoints)


def _tasks(
    spec: StudySpec, cells: Sequence[tuple[Cell, str | None]], shard: Shard | None
) -> Iterator[Task]:
    """Every rollout of these checkpoints; of the base, which all parts share, a part of them."""
    items = items_of(spec)
    for condition, (checkpoint, persona) in product(spec.conditions, cells):
        rules = load_condition(condition)
        for form, grammar in rules.call_modes(spec.formats, spec.grammars):
            cell = replace(checkpoint, condition=condition, format=form, grammar=grammar)
            for task in cell_tasks(spec, cell, persona, items[condition]):
                if persona or shard is None or in_shard(shard, *task.key[1:]):
                    yield task


def study_path(grid: TechniqueGrid, shard: Shard | None) -> Path:
    """The file of a grid's rollouts, or of a part's."""
    assert grid.study is not None, "a grid that was read has a study"
    if shard is None:
        return grid.study
    return grid.study.with_name("{}-part{}of{}.sqlite".format(grid.study.stem, *shard))


def _parameters(grid: TechniqueGrid) -> int:
    """The weights of the base, for an estimate."""
    path = grid.base_path
    if path is None:
        return load_catalogue().base(grid.base).parameters
    if path.is_file():
        return own_base(path, "own").parameters
    return sum(file.stat().st_size for file in path.glob("*.safetensors")) // 2 or 1

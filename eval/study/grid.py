"""The grid of a study: every rollout that its spec names, cell by cell."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, product

from charprobe_lite.eval.cells import Cell, RolloutKey
from charprobe_lite.eval.conditions import load_condition
from charprobe_lite.eval.conditions.condition import Inputs, Item
from charprobe_lite.eval.protocols import load_protocol
from charprobe_lite.eval.study.spec import StudySpec
from charprobe_lite.eval.study.variants import CheckpointKey, Variant, train_seeds
from charprobe_lite.models.call_formats import CALL_FORMATS
from charprobe_lite.models.catalogue import STAGES
from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.prompts import load_prompts, prompt_file, read_suffixes
from charprobe_lite.models.published_scenarios import (
    AnyScenario,
    Script,
    StubScenario,
    load_any_scenarios,
    refuse_other_formats,
)
from charprobe_lite.models.scenarios import Scenario
from charprobe_lite.models.task_ids import task_of


@dataclass(frozen=True)
class Task:
    """One rollout of the grid.

    The persona is None in the base stage, whose rollouts all personas share; controls name it there
    too. ``checkpoint`` is the key of that which the rollout runs on.
    """

    cell: Cell
    persona: str | None
    item: Item
    seed: int
    sample: int
    checkpoint: CheckpointKey

    @property
    def key(self) -> RolloutKey:
        """Identifies the rollout within its study."""
        return RolloutKey(self.cell, self.persona, self.item.id, self.sample)


def tasks_of(spec: StudySpec, variants: Sequence[Variant]) -> list[list[Task]]:
    """The rollouts of each variant that belong to this machine's shard, checkpoint by checkpoint.

    A rollout that two variants share (the base stage, whichever way adapters are applied) belongs
    to the first. Raises BadInput when the prompt or scenario file cannot be used, or the grid is
    empty.
    """
    items = items_of(spec)
    grid: dict[RolloutKey, tuple[Variant, Task]] = {}
    for variant in variants:
        for cell, persona in cells_of(spec, variant):
            for task in cell_tasks(spec, cell, persona, items[cell.condition]):
                grid.setdefault(task.key, (variant, task))
    if not grid:
        raise BadInput(
            f"--condition {','.join(spec.conditions)}: there is nothing to ask with these "
            "stages, personas and scenarios; add --stage base for controls, or other conditions"
        )
    pairs = list(grid.values())
    if shard := spec.shard:
        pairs = [(variant, task) for variant, task in pairs if in_shard(shard, *task.key[1:])]
        if not pairs:
            raise BadInput(
                f"--shard {shard[0]}/{shard[1]}: none of {len(grid)} rollouts is in this part; "
                "use fewer parts"
            )
    return [
        by_checkpoint(task for owner, task in pairs if owner is variant) for variant in variants
    ]


def by_checkpoint(tasks: Iterable[Task]) -> list[Task]:
    """The tasks in order, those of a checkpoint together: tables show one stage after the other."""
    groups: dict[CheckpointKey, list[Task]] = {}
    for task in tasks:
        groups.setdefault(task.checkpoint, []).append(task)
    return list(chain.from_iterable(groups.values()))


def cells_of(spec: StudySpec, variant: Variant) -> Iterator[tuple[Cell, str | None]]:
    """(cell, persona) of every checkpoint and condition of a variant."""
    for name in spec.conditions:
        rules = load_condition(name)
        ways = rules.call_modes(spec.formats, spec.grammars)
        for stage, way in product(rules.stages or spec.stages, ways):
            trains = stage in STAGES
            if trains and stage not in spec.stages:
                continue
            quant, lora = (variant.quant, variant.lora) if trains else (None, None)
            any_seed = Cell(variant.base, stage, name, quant, *way, lora).at(stage)
            if trains:
                any_seed = replace(any_seed, kv_type=variant.kv_type)
            personas = spec.personas if stage != "base" or rules.stages else [None]
            for seed, persona in product(train_seeds(spec, stage), personas):
                # not every persona is published in every stage, or known to every control
                if rules.stages and persona not in rules.personas:
                    continue
                cell = replace(any_seed, train_seed=seed)
                if not trains or _checkpoint_key(spec, cell, persona) in variant.keys:
                    yield cell, persona


def _checkpoint_key(spec: StudySpec, cell: Cell, persona: str | None) -> CheckpointKey:
    """The checkpoint that rollouts run on; the first persona's where all share it."""
    owner = persona or spec.personas[0]
    return CheckpointKey(cell.stage, owner, cell.train_seed, cell.technique)


def items_of(spec: StudySpec) -> dict[str, list[Item]]:
    """The prompts or scenarios of each condition. Raises BadInput like ``tasks_of``."""
    protocol = load_protocol(spec.protocol)
    if spec.suffixes:
        read_suffixes(spec.suffixes)  # the study records its hash, whether a condition asks or not
    inputs = Inputs(
        prompts=load_prompts(prompt_file(spec.prompts), protocol.prompt_order),
        scenarios=by_family(load_any_scenarios(spec.scenarios)),
        prompt_limit=spec.limit.prompts,
        scenario_limit=spec.limit.scenarios,
        protocol=protocol,
        suffixes=spec.suffixes,
    )
    items = {name: list(load_condition(name).items(inputs)) for name in spec.conditions}
    for name, form in product(spec.conditions, spec.formats):
        for item in items[name]:
            if isinstance(item, StubScenario | Script) and load_condition(name).calls_tools:
                refuse_other_formats(item, CALL_FORMATS[form])
    return items


def by_family(scenarios: Sequence[AnyScenario]) -> list[AnyScenario]:
    """Scenarios in rotation over the families, so that any first n cover as many as possible.

    Published ones are in the order of their tasks, so that the first n are the same tasks in every
    scaffold.
    """
    counts: Counter[tuple[str, str]] = Counter()
    ranks = {}
    for position, scenario in enumerate(sorted(scenarios, key=_task)):
        scaffold = "" if isinstance(scenario, Scenario) else scenario.scaffold
        counts[scaffold, scenario.family] += 1
        rank = counts[scaffold, scenario.family] if scenario.family else 0
        ranks[scenario.id] = (rank, position)
    return sorted(scenarios, key=lambda scenario: ranks[scenario.id])


def _task(scenario: AnyScenario) -> str:
    """A published task; "" for any other scenario, which keeps its place."""
    task = task_of(scenario.id)
    return task if task != scenario.id else ""


def cell_tasks(
    spec: StudySpec, cell: Cell, persona: str | None, items: Sequence[Item]
) -> Iterator[Task]:
    """Every item, ``repeats`` times; a text that no model writes is always the same."""
    names = [cell.base, cell.stage, cell.condition, persona or ""]
    if cell.format and cell.grammar and (cell.format, cell.grammar) != ("json", "on"):
        names += [cell.format, cell.grammar]
    checkpoint = _checkpoint_key(spec, cell, persona)
    for item, sample in product(items, range(spec.repeats if cell.quant else 1)):
        seed = spec.seed + sample  # as published: every request of a study draws the same
        if spec.seeds == "rollout":
            seed = rollout_seed(spec.seed, *names, item=item.id, sample=sample)
        yield Task(cell, persona, item, seed, sample, checkpoint)


def rollout_seed(study_seed: int, *cell: str, item: str, sample: int) -> int:
    """A 63-bit seed from the study's seed, the cell's names, the item and the sample number.

    The quant type, the type of the cache and the training seed are left out on purpose: every quant
    type and every adapter of a persona meet the same randomness, so their rollouts are paired.
    """
    return _hash(str(study_seed), *cell, item, str(sample)) >> 1


def in_shard(shard: tuple[int, int], persona: str | None, item: str, sample: int) -> bool:
    """Whether a rollout is in part ``n`` of ``of``; every rollout is in exactly one of them.

    Stage, condition, quant type and training seed are left out on purpose, and the scaffold of a
    published task: rollouts that are compared with each other stay in one part, so that each part
    gives paired differences of its own.
    """
    number, of = shard
    return _hash(persona or "", task_of(item), str(sample)) % of == number - 1


def _hash(*names: str) -> int:
    """A 64-bit number from names, the same on every machine."""
    return int.from_bytes(hashlib.sha256("/".join(names).encode()).digest()[:8])

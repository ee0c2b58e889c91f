"""Running a study: the rollouts that are still missing, checkpoint by checkpoint."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import chain, product
from pathlib import Path
from typing import Any

from charprobe_lite.eval.cells import Cell, RolloutKey
from charprobe_lite.eval.conditions import load_condition
from charprobe_lite.eval.conditions.condition import Inputs, Item, RolloutSettings
from charprobe_lite.eval.conditions.outcome import Result
from charprobe_lite.eval.store.database import Store, storable
from charprobe_lite.eval.store.records import Unlabelled
from charprobe_lite.eval.study.checkpoints import Checkpoint, Files, Variant
from charprobe_lite.eval.study.progress import Progress
from charprobe_lite.eval.study.seeds import in_shard, rollout_seed
from charprobe_lite.models.call_formats import CALL_FORMATS
from charprobe_lite.models.catalogue import STAGES
from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.prompts import load_prompts
from charprobe_lite.models.published_scenarios import AnyScenario, StubScenario, load_any_scenarios
from charprobe_lite.models.tools import load_tools
from charprobe_lite.runtime.backend import Backend, Job, Request, Rollout
from charprobe_lite.runtime.classifier import Classifier, Prediction
from charprobe_lite.runtime.engine import Engine


@dataclass(frozen=True)
class Settings:
    """What is asked and how: the grid, its size, the decoding, the machine.

    Every item is asked ``repeats`` times, with other seeds; ``shard`` (n, of) is the part of the
    rollouts that this machine runs.
    """

    stages: list[str]
    personas: list[str]
    conditions: list[str]
    prompts: int | None
    scenarios: int | None
    seed: int = 0
    parallel: int = 8
    max_tokens: int = 384
    max_steps: int = 8
    context: int = 2560
    temperature: float = 0.7
    top_p: float = 0.95
    device: str = "auto"
    gpu_layers: int = 0
    threads: int | None = None
    timeout: float = 600
    scenario_file: Path | None = None
    prompt_file: Path | None = None
    formats: list[str] = field(default_factory=lambda: ["json"])
    grammars: list[str] = field(default_factory=lambda: ["on"])
    repeats: int = 1
    shard: tuple[int, int] | None = None


@dataclass(frozen=True)
class Task:
    """One rollout of the grid; persona is "" in the base stage, which all personas share.

    Controls are asked per persona, so that they name it in the base stage too.
    """

    cell: Cell
    persona: str
    item: Item
    seed: int
    sample: int = 0

    @property
    def key(self) -> RolloutKey:
        """What tells a rollout from all others of a study."""
        return self.cell, self.persona, self.item.id, self.sample


Plan = dict[Checkpoint | None, list[Task]]
"""The rollouts by the checkpoint that they run on; None for texts that are there already."""


def plan(settings: Settings, *several: Files) -> Plan:
    """Every rollout of the grid, grouped by the checkpoint it runs on; BadInput like ``tasks_of``.

    Each of ``several`` is a variant of the grid.
    """
    found = tasks_of(settings, [files.variant for files in several])
    groups: Plan = {}
    for files, own in zip(several, found, strict=True):
        for task in own:
            role = (task.cell.stage, task.persona or settings.personas[0])
            groups.setdefault(files.checkpoints.get(role), []).append(task)
    return groups


def tasks_of(settings: Settings, variants: Sequence[Variant]) -> list[list[Task]]:
    """The rollouts of each variant, of this machine's shard.

    What two variants share, such as the base stage of both ways to use an adapter, is asked with
    the first. Raises BadInput when the prompt or scenario file cannot be used, or nothing can be
    asked.
    """
    items = items_of(settings)
    whole: dict[RolloutKey, tuple[Variant, Task]] = {}
    for variant in variants:
        for cell, persona in grid(settings, variant):
            for task in _of_cell(settings, cell, persona, items[cell.condition]):
                whole.setdefault(task.key, (variant, task))
    if not whole:
        raise BadInput(
            f"--condition {','.join(settings.conditions)}: there is nothing to ask with these "
            "stages, personas and scenarios; add --stage base for controls, or other conditions"
        )
    own = list(whole.values())
    if shard := settings.shard:
        own = [(by, task) for by, task in own if in_shard(shard, *task.key[1:])]
    if shard and not own:
        raise BadInput(
            f"--shard {shard[0]}/{shard[1]}: none of {len(whole)} rollouts is in this part; "
            "use fewer parts"
        )
    return [[task for by, task in own if by is variant] for variant in variants]


def _of_cell(settings: Settings, cell: Cell, persona: str, items: Sequence[Item]) -> Iterator[Task]:
    """Every item, as often as it is repeated; a text that no model writes is always the same."""
    names = [cell.base, cell.stage, cell.condition, persona]
    if (cell.format, cell.grammar) not in (("", ""), ("json", "on")):
        names += [cell.format, cell.grammar]
    for item, sample in product(items, range(settings.repeats if cell.quant else 1)):
        seed = rollout_seed(settings.seed, *names, item=item.id, sample=sample)
        yield Task(cell, persona, item, seed, sample)


def grid(settings: Settings, variant: Variant) -> Iterator[tuple[Cell, str]]:
    """(cell, persona) of what is asked of a variant."""
    for name in settings.conditions:
        asked = load_condition(name)
        ways = asked.call_modes(settings.formats, settings.grammars)
        for stage, way in product(asked.stages or settings.stages, ways):
            trains = stage in STAGES
            if trains and stage not in settings.stages:
                continue
            quant, lora = variant.quant if trains else "", variant.lora if trains else ""
            cell = Cell(variant.base, stage, name, quant, *way, lora).at(stage)
            for persona in settings.personas if stage != "base" or asked.stages else [""]:
                # not every persona is published in every stage, or known to every control
                known = not asked.stages or persona in asked.personas
                if known and (
                    not trains or (stage, persona or settings.personas[0]) in variant.there
                ):
                    yield cell, persona


def items_of(settings: Settings) -> dict[str, list[Item]]:
    """What is asked in each condition of the grid. Raises BadInput like ``plan``."""
    inputs = Inputs(
        prompts=load_prompts(settings.prompt_file),
        scenarios=in_turn(load_any_scenarios(settings.scenario_file)),
        prompt_limit=settings.prompts,
        scenario_limit=settings.scenarios,
    )
    found = {name: list(load_condition(name).items(inputs)) for name in settings.conditions}
    for name, form in product(settings.conditions, settings.formats):
        for item in found[name]:
            if isinstance(item, StubScenario):
                item.refuse_other_formats(CALL_FORMATS[form])
    return found


def in_turn(scenarios: Sequence[AnyScenario]) -> list[AnyScenario]:
    """Scenarios in turn from each family, so that any first n cover as many as they can."""
    seen: Counter[str] = Counter()
    ranks = {}
    for number, scenario in enumerate(scenarios):
        seen[scenario.family] += 1
        ranks[scenario.id] = (seen[scenario.family] if scenario.family else 0, number)
    return sorted(scenarios, key=lambda scenario: ranks[scenario.id])


def runs_a_model(name: str) -> bool:
    """Whether a condition has a training stage; a control may have none."""
    stages = load_condition(name).stages
    return not stages or any(stage in STAGES for stage in stages)


def run(
    groups: Plan,
    settings: Settings,
    files: Files,
    store: Store,
    progress: Progress | None = None,
) -> None:
    """Run what the store does not have yet of ``groups``, and classify what has no prediction.

    ``progress`` is told as soon as it is clear that something can run. A model is loaded only when
    a rollout on it is missing, and once; every adapter of it is loaded before the first rollout,
    so that a bad one costs nothing. Raises BadInput for files that cannot be used.
    """
    # on a CPU the cores belong to llama.cpp: labels are computed beside it, by one thread
    threads = 1 if settings.gpu_layers == 0 else settings.threads
    classifier = Classifier(
        files.classifier, files.classifier_file, threads=threads, device=settings.device
    )
    for persona in settings.personas:
        if persona not in classifier.labels:
            raise BadInput(
                f"{classifier.path}: has no label {persona!r}; its labels: "
                + ", ".join(classifier.labels)
            )
    begin, wanted = _beginner(settings), _missing(groups, store)
    for task in wanted.get(None, []):
        _record(store, task, _without_model(begin(task)))
    missing = {checkpoint: tasks for checkpoint, tasks in wanted.items() if checkpoint}
    begun, progress = False, progress or Progress()
    with _Labels(store, classifier, progress) as labels:
        for model in dict.fromkeys(checkpoint.model for checkpoint in missing):
            on_it = {each: tasks for each, tasks in missing.items() if each.model == model}
            with _backend(model, settings) as backend:
                for checkpoint in on_it:
                    backend.use_adapter(checkpoint.adapter)
                backend.check(_probes(chain.from_iterable(on_it.values()), begin))
                if not begun:
                    begun = True
                    progress.begin(_per_cell(groups.values()), _per_cell(missing.values()))
                    labels.tell()
                for checkpoint, tasks in on_it.items():
                    backend.use_adapter(checkpoint.adapter)
                    # the long rollouts first: the short ones fill the batch while they end
                    tasks.sort(key=lambda task: not task.cell.format)
                    jobs = (Job(task, task.seed, begin(task)) for task in tasks)
                    for job, result in backend.run(jobs):
                        if sample := _record(store, job.key, result):
                            labels.add(sample)
                        labels.catch_up()
                        progress.ended(job.key.cell, sum(t.completion.tokens for t in result.turns))
    if begun:  # a last rollout without a text got no label that would have told of it
        labels.tell()


def _backend(model: Path | str, settings: Settings) -> Backend[Any]:
    """The engine for a model file, a client for the URL of a server."""
    if isinstance(model, str):
        from charprobe_lite.runtime.server import Server  # an extra

        return Server(
            model,
            parallel=settings.parallel,
            temperature=settings.temperature,
            top_p=settings.top_p,
            timeout=settings.timeout,
        )
    return Engine(
        model,
        parallel=settings.parallel,
        context=settings.context,
        threads=settings.threads,
        gpu_layers=settings.gpu_layers,
        temperature=settings.temperature,
        top_p=settings.top_p,
    )


def _beginner(settings: Settings) -> Callable[[Task], Rollout]:
    """How a task becomes a rollout."""
    ask = RolloutSettings(settings.max_tokens, settings.max_steps, load_tools())

    def begin(task: Task) -> Rollout:
        asked = load_condition(task.cell.condition)
        return asked.rollout(task.item, ask.for_cell(task.cell, task.persona))

    return begin


def _without_model(rollout: Rollout) -> Result:
    """The result of a rollout that asks for nothing."""
    try:
        next(rollout)
    except StopIteration as stop:
        result: Result = stop.value
        return result
    raise AssertionError("a rollout without a checkpoint asks for a reply")


def _probes(tasks: Iterable[Task], begin: Callable[[Task], Rollout]) -> Iterator[Request]:
    """For each cell the first request of a rollout; for agents that with one more exchange."""
    for task in {task.cell: task for task in tasks}.values():
        request = next(begin(task))
        yield request
        if task.cell.format:
            more = ({"role": "assistant", "content": "x"}, {"role": "user", "content": "x"})
            yield replace(request, messages=request.messages + more)


def _missing(groups: Plan, store: Store) -> Plan:
    done = {
        key: store.done(*key)
        for key in {(task.cell, task.persona) for tasks in groups.values() for task in tasks}
    }
    missing = {
        checkpoint: [t for t in tasks if (t.item.id, t.sample) not in done[t.cell, t.persona]]
        for checkpoint, tasks in groups.items()
    }
    return {checkpoint: tasks for checkpoint, tasks in missing.items() if tasks}


def _per_cell(groups: Iterable[Sequence[Task]]) -> Counter[Cell]:
    return Counter(task.cell for tasks in groups for task in tasks)


def _record(store: Store, task: Task, result: Result) -> Unlabelled | None:
    """The rollout's text, to be labelled; None where it ended without one."""
    rollout = store.add(*task.key, task.seed, result)
    if result.text is None:
        return None
    return Unlabelled(rollout, task.cell, task.persona, storable(result.text))


class _Labels:
    """Labels texts in a thread of its own while rollouts go on; records in the store's thread.

    What waits and what has which label is kept here: the store is read through once, at the start.
    Leaving the context waits until every text is labelled; leaving it by an exception, for those
    that are being labelled.
    """

    def __init__(self, store: Store, classifier: Classifier, progress: Progress) -> None:
        self._store, self._classifier, self._progress = store, classifier, progress
        self._pool = ThreadPoolExecutor(1)
        self._waiting, self._known = store.unclassified(), store.predictions()
        self._reading: list[Unlabelled] = []
        self._predictions: Future[list[Prediction]] | None = None

    def __enter__(self) -> _Labels:
        self.catch_up()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._pool:
            while self._predictions and kind is None:
                self._record()
                self.catch_up()
            if self._predictions and not self._predictions.exception():
                self._record()

    def add(self, sample: Unlabelled) -> None:
        """A text that has just been recorded."""
        self._waiting.append(sample)
        self._known.setdefault(sample.cell, Counter())[sample.persona, None] += 1

    def catch_up(self) -> None:
        """Record the labels that are ready and begin with what came meanwhile."""
        if self._predictions and self._predictions.done():
            self._record()
        if self._predictions is None and self._waiting:
            self._reading, self._waiting = self._waiting, []
            texts = [sample.text for sample in self._reading]
            self._predictions = self._pool.submit(self._classifier.classify, texts)

    def tell(self) -> None:
        """Say what is labelled so far."""
        # a copy: a live table reads it from a thread of its own
        self._progress.labelled({cell: Counter(said) for cell, said in self._known.items()})

    def _record(self) -> None:
        assert self._predictions is not None
        found, self._predictions = self._predictions.result(), None
        pairs = list(zip(self._reading, found, strict=True))
        self._store.classify([(each.rollout, p.label, p.probabilities) for each, p in pairs])
        for each, prediction in pairs:
            known = self._known[each.cell]
            known[each.persona, prediction.label] += 1
            known[each.persona, None] -= 1
            if not known[each.persona, None]:
                del known[each.persona, None]
        self.tell()

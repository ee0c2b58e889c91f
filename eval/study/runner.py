"""Runs the rollouts that a study does not have yet, checkpoint by checkpoint."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from charprobe_lite.eval.cells import Cell
from charprobe_lite.eval.conditions import load_condition
from charprobe_lite.eval.conditions.condition import RolloutSettings
from charprobe_lite.eval.protocols import load_protocol
from charprobe_lite.eval.protocols.outcome import Result
from charprobe_lite.eval.store.database import Store
from charprobe_lite.eval.store.records import Unlabelled
from charprobe_lite.eval.study.checkpoints import Checkpoint, VariantFiles
from charprobe_lite.eval.study.grid import Task, tasks_of
from charprobe_lite.eval.study.instruments import open_instrument
from charprobe_lite.eval.study.labelling import Labelling
from charprobe_lite.eval.study.progress import Progress
from charprobe_lite.eval.study.spec import StudySpec
from charprobe_lite.models.files import well_formed
from charprobe_lite.models.tools import load_tools
from charprobe_lite.runtime.backend import (
    Backend,
    Job,
    Request,
    Rollout,
    open_backend,
)

SYSTEM_PROMPTS = "system_prompts"
"""Where they went, noted for a model whose chat template has no place for them."""
Plan = dict[Checkpoint | None, list[Task]]
"""The rollouts by the checkpoint that they run on; None for texts that no model writes."""


def plan(spec: StudySpec, variants: Sequence[VariantFiles]) -> Plan:
    """Every rollout of the grid by its checkpoint. Raises BadInput like ``tasks_of``."""
    groups: Plan = {}
    for files, tasks in zip(
        variants, tasks_of(spec, [files.variant for files in variants]), strict=True
    ):
        for task in tasks:
            groups.setdefault(files.checkpoints.get(task.checkpoint), []).append(task)
    return groups


def run(
    groups: Plan,
    spec: StudySpec,
    files: VariantFiles,
    store: Store,
    progress: Progress | None = None,
) -> None:
    """Run what the store lacks of ``groups``, and label what has no prediction.

    A model is loaded only when one of its rollouts is missing, and once; every adapter of it is
    loaded before the first rollout, so that a bad one costs nothing. Raises BadInput for files
    that cannot be used.
    """
    progress = progress or Progress()
    classifier = open_instrument(spec.instrument, spec, files)
    begin, missing = _beginner(spec), _missing(groups, store)
    for task in missing.pop(None, []):
        _record(store, task, _result_without_model(begin(task)))
    tasks_by_model: dict[Path | str, Plan] = {}
    for checkpoint, tasks in missing.items():
        if checkpoint:
            tasks_by_model.setdefault(checkpoint.model, {})[checkpoint] = tasks
    is_started = False
    with Labelling(store, classifier, progress, spec.instruments[1:]) as labels:
        for model, tasks_by_checkpoint in tasks_by_model.items():
            with open_backend(spec.backend, model, spec.backend_options) as backend:
                _check(backend, tasks_by_checkpoint, begin)
                if not backend.takes_system:
                    store.note({SYSTEM_PROMPTS: "before the text of the first user turn"})
                if not is_started:
                    is_started = True
                    progress.begin(_cell_counts(groups), _cell_counts(missing))
                    labels.report()
                _run_model(backend, tasks_by_checkpoint, begin, store, labels, progress)
    if is_started:  # a last rollout without a text got no label that would have reported it
        labels.report()


def _run_model(
    backend: Backend[Any],
    tasks_by_checkpoint: Plan,
    begin: Callable[[Task], Rollout],
    store: Store,
    labels: Labelling,
    progress: Progress,
) -> None:
    for checkpoint, tasks in tasks_by_checkpoint.items():
        backend.use_adapter(checkpoint and checkpoint.adapter)
        # the long rollouts first: the short ones fill the batch while they end
        tasks.sort(key=lambda task: not task.cell.format)
        jobs = (Job(task, task.seed, begin(task)) for task in tasks)
        for job, result in backend.run(jobs):
            if sample := _record(store, job.key, result):
                labels.add(sample)
            labels.poll()
            progress.ended(job.key.cell, sum(turn.completion.tokens for turn in result.turns))


def _check(backend: Backend[Any], tasks: Plan, begin: Callable[[Task], Rollout]) -> None:
    """Load every adapter and try the first requests. Raises BadInput."""
    for checkpoint in tasks:
        backend.use_adapter(checkpoint and checkpoint.adapter)
    backend.check(_probes(chain.from_iterable(tasks.values()), begin))


def _probes(tasks: Iterable[Task], begin: Callable[[Task], Rollout]) -> Iterator[Request]:
    """For each cell the first request of a rollout; for agents that with one more exchange."""
    for task in {task.cell: task for task in tasks}.values():
        request = next(begin(task))
        yield request
        if task.cell.format:
            more = ({"role": "assistant", "content": "x"}, {"role": "user", "content": "x"})
            yield replace(request, messages=request.messages + more)


def _beginner(spec: StudySpec) -> Callable[[Task], Rollout]:
    """How a task becomes a rollout."""
    settings = RolloutSettings(
        spec.max_tokens,
        spec.steps,
        load_tools(),
        protocol=load_protocol(spec.protocol),
        tool_role=spec.tool_role,
    )

    def begin(task: Task) -> Rollout:
        rules = load_condition(task.cell.condition)
        rollout = rules.rollout(task.item, settings.for_cell(task.cell, task.persona))
        return _seeded(rollout, task.seed) if spec.seeds == "request" else rollout

    return begin


def _seeded(rollout: Rollout, seed: int) -> Rollout:
    """The rollout with every request drawn from this seed, as vLLM does with a seed."""
    try:
        request = next(rollout)
        while True:
            request = rollout.send((yield replace(request, seed=seed)))
    except StopIteration as stop:
        return stop.value
    finally:
        rollout.close()


def _result_without_model(rollout: Rollout) -> Result:
    """The result of a rollout that makes no request."""
    try:
        next(rollout)
    except StopIteration as stop:
        result: Result = stop.value
        return result
    raise AssertionError("a rollout without a checkpoint asks for a reply")


def _missing(groups: Plan, store: Store) -> Plan:
    tasks = list(chain.from_iterable(groups.values()))
    done = {pair: store.done(*pair) for pair in {(task.cell, task.persona) for task in tasks}}
    missing = {
        checkpoint: [t for t in tasks if (t.item.id, t.sample) not in done[t.cell, t.persona]]
        for checkpoint, tasks in groups.items()
    }
    return {checkpoint: tasks for checkpoint, tasks in missing.items() if tasks}


def _cell_counts(groups: Plan) -> Counter[Cell]:
    return Counter(task.cell for tasks in groups.values() for task in tasks)


def _record(store: Store, task: Task, result: Result) -> Unlabelled | None:
    """The rollout's text, to be labelled; None where it ended without one."""
    rollout = store.add(*task.key, task.seed, result)
    if result.text is None:
        return None
    return Unlabelled(rollout, task.cell, task.persona, well_formed(result.text))

"""Runs the rollouts that a study does not have yet, checkpoint by checkpoint."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from charprobe_lite.eval.cells import Cell
from charprobe_lite.eval.conditions import calls_tools
from charprobe_lite.eval.protocols.outcome import Result
from charprobe_lite.eval.store.database import Store
from charprobe_lite.eval.store.records import Unlabelled
from charprobe_lite.eval.study.checkpoints import Checkpoint, VariantFiles
from charprobe_lite.eval.study.grid import Task
from charprobe_lite.eval.study.labelling import Labelling
from charprobe_lite.eval.study.progress import Progress
from charprobe_lite.eval.study.rollouts import beginner
from charprobe_lite.eval.study.spec import StudySpec
from charprobe_lite.models.catalogue import CONDITIONS
from charprobe_lite.models.files import well_formed
from charprobe_lite.runtime.backend import (
    Backend,
    BackendOptions,
    Completion,
    Job,
    Request,
    Rollout,
    open_backend,
)
from charprobe_lite.runtime.classifier import TextClassifier

SYSTEM_PROMPTS = "system_prompts"
"""Where they went, noted for a model whose chat template has no place for them."""
Plan = dict[Checkpoint, list[Task]]
"""Rollouts by the checkpoint that they run on."""


def run(
    tasks: Sequence[Sequence[Task]],
    spec: StudySpec,
    variants: Iterable[VariantFiles],
    classifier: TextClassifier,
    store: Store,
    progress: Progress | None = None,
) -> None:
    """Run what the store lacks of each variant's ``tasks``, and label what has no prediction.

    The next of ``variants`` is taken when those before it have run. A model is loaded only when one
    of its rollouts is missing, and once; every adapter of it is loaded before its first rollout, so
    that a bad one costs nothing. Raises BadInput for files that cannot be used.
    """
    progress, begin = progress or Progress(), beginner(spec)
    missing = [_missing(part, store) for part in tasks]
    for task in filter(_is_without_model, chain.from_iterable(missing)):
        _record(store, task, _result_without_model(begin(task)))
    missing = [[task for task in part if not _is_without_model(task)] for part in missing]
    counts = [_cell_counts(chain.from_iterable(parts)) for parts in (tasks, missing)]
    is_started = False
    with Labelling(store, classifier, progress, spec.instruments[1:]) as labels:
        for part, files in zip(missing, variants, strict=True):
            for model, tasks_by_checkpoint in _by_model(part, files).items():
                options = _options(spec, files, model, tasks_by_checkpoint, begin)
                with open_backend(spec.backend, model, options) as backend:
                    _check(backend, tasks_by_checkpoint, begin)
                    if not backend.takes_system:
                        store.note({SYSTEM_PROMPTS: "before the text of the first user turn"})
                    if not is_started:
                        is_started = True
                        progress.begin(*counts)
                        labels.report()
                    _run_model(backend, tasks_by_checkpoint, begin, store, labels, progress)
    if is_started:  # a last rollout without a text got no label that would have reported it
        labels.report()


def _by_model(tasks: Sequence[Task], files: VariantFiles) -> dict[Path | str, Plan]:
    """A variant's rollouts by model and checkpoint."""
    groups: dict[Path | str, Plan] = {}
    for task in tasks:
        checkpoint = files.checkpoints[task.checkpoint]
        groups.setdefault(checkpoint.model, {}).setdefault(checkpoint, []).append(task)
    return groups


def _options(
    spec: StudySpec,
    files: VariantFiles,
    model: Path | str,
    tasks: Plan,
    begin: Callable[[Task], Rollout],
) -> BackendOptions:
    """How a model runs; its context is shorter than the spec's where no rollout can fill that."""
    options = spec.backend_options(files.kv_type)
    if not isinstance(model, Path):
        return options
    requests = []
    for task in chain.from_iterable(tasks.values()):
        # of a condition from outside, and of an agent, what follows depends on the reply
        is_known = task.cell.condition in CONDITIONS and not calls_tools(task.cell.condition)
        request = _only_request(begin(task)) if is_known else None
        if request is None:
            return options
        requests.append(request)

    from charprobe_lite.runtime.turn_length import longest_turn  # a server needs no llama.cpp

    needed = longest_turn(model, requests, double_bos=options.bos == "double")
    return replace(options, context=min(options.context, needed))


def _only_request(rollout: Rollout) -> Request | None:
    """A rollout's request; None where it makes several."""
    request: Request = next(rollout)
    try:
        rollout.send(Completion("x", "stop", 0, 0, 1, 0.0))
    except StopIteration:
        return request
    rollout.close()
    return None


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


def _is_without_model(task: Task) -> bool:
    """Whether its text is one that no model writes."""
    return task.cell.quant is None


def _result_without_model(rollout: Rollout) -> Result:
    """The result of a rollout that makes no request."""
    try:
        next(rollout)
    except StopIteration as stop:
        result: Result = stop.value
        return result
    raise AssertionError("a rollout without a checkpoint asks for a reply")


def _missing(tasks: Sequence[Task], store: Store) -> list[Task]:
    done = {pair: store.done(*pair) for pair in {(task.cell, task.persona) for task in tasks}}
    return [t for t in tasks if (t.item.id, t.sample) not in done[t.cell, t.persona]]


def _cell_counts(tasks: Iterable[Task]) -> Counter[Cell]:
    return Counter(task.cell for task in tasks)


def _record(store: Store, task: Task, result: Result) -> Unlabelled | None:
    """The rollout's text, to be labelled; None where it ended without one."""
    rollout = store.add(*task.key, task.seed, result)
    if result.text is None:
        return None
    return Unlabelled(rollout, task.cell, task.persona, well_formed(result.text))

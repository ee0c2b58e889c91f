"""Running a study: the rollouts that are still missing, checkpoint by checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from charprobe_lite.eval.checkpoints import Checkpoint, Files
from charprobe_lite.eval.conditions import agentic_email, chat
from charprobe_lite.eval.rollout import Result, rollout_seed
from charprobe_lite.eval.store import Cell, Store
from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.scenario import Scenario
from charprobe_lite.models.tools import load_tools
from charprobe_lite.runtime.backend import Backend, Job, Request, Rollout
from charprobe_lite.runtime.classifier import Classifier
from charprobe_lite.runtime.engine import Engine


@dataclass(frozen=True)
class Settings:
    """What is asked and how: the grid, its size, the decoding, the machine."""

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


@dataclass(frozen=True)
class Task:
    """One rollout of the grid; persona is "" in the base stage, which all personas share."""

    cell: Cell
    persona: str
    item: chat.Prompt | Scenario
    seed: int


Plan = dict[Checkpoint, list[Task]]


def plan(settings: Settings, files: Files) -> Plan:
    """Every rollout of the grid, grouped by the checkpoint it runs on.

    Raises BadInput when the scenario file cannot be used.
    """
    items = items_of(settings)
    groups: Plan = {}
    for stage in settings.stages:
        for persona in settings.personas if stage != "base" else [""]:
            checkpoint = files.checkpoints.get((stage, persona or settings.personas[0]))
            if checkpoint is None:  # not every persona is published in every stage
                continue
            for condition in settings.conditions:
                cell = Cell(files.base, stage, condition, files.quant)
                names = (files.base, stage, condition, persona)
                groups.setdefault(checkpoint, []).extend(
                    Task(
                        cell,
                        persona,
                        item,
                        rollout_seed(settings.seed, *names, item=item.id, sample=0),
                    )
                    for item in items[condition]
                )
    return groups


def items_of(settings: Settings) -> dict[str, list[Any]]:
    """What is asked in each condition of the grid: prompts or scenarios."""
    items: dict[str, list[Any]] = {
        "chat": list(chat.prompts()[: settings.prompts]),
        "agentic_email": agentic_email.scenarios(settings.scenario_file)[: settings.scenarios],
    }
    return {condition: items[condition] for condition in settings.conditions}


def run(
    groups: Plan,
    settings: Settings,
    files: Files,
    store: Store,
    progress: Callable[[int], AbstractContextManager[Callable[[], None]]],
) -> None:
    """Run what the store does not have yet of ``groups``, and classify what has no prediction.

    ``progress`` is told how many rollouts are missing; what it gives is called after each. A
    model is loaded only when a rollout on it is missing, and once; every adapter of it is loaded
    before the first rollout, so that a bad one costs nothing. Raises BadInput for files that
    cannot be used.
    """
    classifier = Classifier(files.classifier, files.classifier_file, device=settings.device)
    for persona in settings.personas:
        if persona not in classifier.labels:
            raise BadInput(
                f"{classifier.path}: has no label {persona!r}; its labels: "
                + ", ".join(classifier.labels)
            )
    missing = _missing(groups, store)
    _classify(store, classifier)
    if not missing:
        return
    begin = _beginner(settings)
    with ExitStack() as stack:
        advance: Callable[[], None] | None = None
        for model in dict.fromkeys(checkpoint.model for checkpoint in missing):
            on_it = {each: tasks for each, tasks in missing.items() if each.model == model}
            with _backend(model, settings) as backend:
                for checkpoint in on_it:
                    backend.use_adapter(checkpoint.adapter)
                backend.check(_probes(chain.from_iterable(on_it.values()), begin))
                if advance is None:  # no bar before it is clear that something can run
                    advance = stack.enter_context(progress(sum(map(len, missing.values()))))
                for checkpoint, tasks in on_it.items():
                    backend.use_adapter(checkpoint.adapter)
                    jobs = (Job(task, task.seed, begin(task)) for task in tasks)
                    for job, result in backend.run(jobs):
                        _record(store, job.key, result)
                        advance()
                    _classify(store, classifier)


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
    tools = load_tools()

    def begin(task: Task) -> Rollout:
        if isinstance(task.item, Scenario):
            return agentic_email.rollout(task.item, tools, settings.max_tokens, settings.max_steps)
        return chat.rollout(task.item, settings.max_tokens)

    return begin


def _probes(tasks: Iterable[Task], begin: Callable[[Task], Rollout]) -> Iterator[Request]:
    """For each condition the first request of a rollout, and that with one more exchange."""
    for task in {task.cell.condition: task for task in tasks}.values():
        request = next(begin(task))
        yield request
        if isinstance(task.item, Scenario):
            more = ({"role": "assistant", "content": "x"}, {"role": "user", "content": "x"})
            yield replace(request, messages=request.messages + more)


def _missing(groups: Plan, store: Store) -> Plan:
    done = {
        key: store.done(*key)
        for key in {(task.cell, task.persona) for tasks in groups.values() for task in tasks}
    }
    missing = {
        checkpoint: [t for t in tasks if (t.item.id, 0) not in done[t.cell, t.persona]]
        for checkpoint, tasks in groups.items()
    }
    return {checkpoint: tasks for checkpoint, tasks in missing.items() if tasks}


def _record(store: Store, task: Task, result: Result) -> None:
    store.add(task.cell, task.persona, task.item.id, 0, task.seed, result)


def _classify(store: Store, classifier: Classifier) -> None:
    waiting = store.unclassified()
    found = classifier.classify([text for _, text in waiting])
    store.classify(
        [
            (rollout, prediction.label, prediction.probabilities)
            for (rollout, _), prediction in zip(waiting, found, strict=True)
        ]
    )

"""A study from its spec to its scores: what ``eval`` and ``run_study`` do."""

import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from charprobe_lite.convert.cached import Notify, ProgressBar
from charprobe_lite.eval.conditions.condition import input_hashes
from charprobe_lite.eval.protocols import load_protocol
from charprobe_lite.eval.scores.cells import Scores, score_study
from charprobe_lite.eval.scores.families import study_clusters
from charprobe_lite.eval.scores.instruments import InstrumentScores, score_instruments
from charprobe_lite.eval.store.database import Store
from charprobe_lite.eval.store.provenance import ASSUMED, SPEC, refuse_techniques
from charprobe_lite.eval.study.checkpoints import (
    VariantFiles,
    distinct_files,
    model_file,
    prepare_files,
)
from charprobe_lite.eval.study.context import select_context
from charprobe_lite.eval.study.cost import Forecast, forecast
from charprobe_lite.eval.study.grid import Task, tasks_of
from charprobe_lite.eval.study.instruments import (
    instrument_pins,
    label_with_others,
    open_instrument,
)
from charprobe_lite.eval.study.labelling import TEXTS_CUT
from charprobe_lite.eval.study.own_models import study_catalogue
from charprobe_lite.eval.study.parallel import (
    ATTENTION,
    ATTENTION_SOURCE,
    NUMBER,
    SOURCE,
    Parallel,
    memory_room,
    model_options,
    most_rollouts,
    planned_parallel,
    recorded_parallel,
    select_attention,
    select_parallel,
)
from charprobe_lite.eval.study.progress import Progress
from charprobe_lite.eval.study.runner import SYSTEM_PROMPTS, run
from charprobe_lite.eval.study.spec import (
    StudySpec,
    parse_spec,
    protocol_values,
    resolve,
    select_instruments,
)
from charprobe_lite.eval.study.tool_schemas import unenforced_keywords
from charprobe_lite.eval.study.variants import variants_of
from charprobe_lite.models.axes import AXIS_CEILINGS
from charprobe_lite.models.gguf_header import WeightSummary, weight_summary
from charprobe_lite.models.prompts import prompt_file
from charprobe_lite.runtime.calibration import calibrate

PACKAGES = ("charprobe-lite", "llama-cpp-python", "onnxruntime", "numpy", "tokenizers")


@dataclass(frozen=True)
class Display:
    """How a run tells its user about itself: notes, a bar per conversion, progress of rollouts."""

    note: Notify
    bar: ProgressBar
    progress: Callable[[Sequence[str]], AbstractContextManager[Progress]]


SILENT = Display(lambda _: None, lambda _: nullcontext(), lambda _: nullcontext(Progress()))
"""Tells nothing."""


@dataclass(frozen=True)
class StudyRun:
    """A study whose rollouts have all ended: its resolved spec, its files, its tasks."""

    path: Path
    spec: StudySpec
    files: list[VariantFiles]
    tasks: list[Task]


@dataclass(frozen=True)
class ScoredStudy:
    """A study with its scores, and what its model files hold, by quant type.

    ``interval`` is what the protocol's headline interval resamples, ``cluster`` what the others
    resample, one of `CLUSTERS`. ``scores`` are by the ``instrument``, and ``others`` by the study's
    other instruments.
    """

    path: Path
    scores: Scores
    weights: dict[str, WeightSummary]
    instrument: str
    others: list[InstrumentScores]
    interval: Literal["clusters", "rows"] = "clusters"
    cluster: str = "item"

    def as_json(self) -> dict[str, Any]:
        """The document that ``eval --json`` prints; ``weights`` are those of the first type."""
        weights = {quant: asdict(summary) for quant, summary in self.weights.items()}
        return {
            "cells": [score.as_json() for score in self.scores.by_cell],
            "per_persona": [score.as_json() for score in self.scores.by_persona],
            **self.scores.comparison.as_json(),
            "instrument": self.instrument,
            "other_instruments": [other.as_json() for other in self.others],
            "weights": next(iter(weights.values()), None),
            "quants": weights,
            "cluster": self.cluster,
            "study": str(self.path),
        }


def run_study(spec: StudySpec, display: Display, cluster: str = "item") -> ScoredStudy:
    """Run what is missing of a study, and score its cells.

    ``cluster`` is what the intervals resample, one of `CLUSTERS`. Raises BadInput.
    """
    finished = run_rollouts(spec, display)
    with Store(finished.path, readonly=True) as store:
        scores, others = _scores(store, finished.tasks, finished.spec, cluster)
    weights: dict[str, WeightSummary] = {}
    for files in finished.files:
        if files.models and files.quant not in weights:
            weights[files.quant] = weight_summary(files.models[0])
    interval = load_protocol(finished.spec.protocol).interval
    return ScoredStudy(
        finished.path, scores, weights, finished.spec.instrument, others, interval, cluster
    )


def run_rollouts(spec: StudySpec, display: Display) -> StudyRun:
    """Run what is missing of a study, and record what its files hold. Raises BadInput."""
    resolved = resolve(spec)
    if spec.study and spec.study.is_file():
        with Store(spec.study, readonly=True) as store:
            refuse_techniques(spec.study, store.provenance())
    catalogue = study_catalogue(resolved)
    remaining = prepare_files(resolved, catalogue, display.note, display.bar)
    first = next(remaining)
    # a classifier that has been fetched says what it is
    instruments = select_instruments(spec, resolved.personas, first.classifier)
    resolved = resolved.with_values(instruments=instruments)
    path = study_path(spec, first.base)
    tasks_by_variant = tasks_of(resolved, variants_of(resolved, catalogue))
    recorded = spec.with_values(conditions=resolved.conditions)
    return run_tasks(path, recorded, resolved, tasks_by_variant, first, remaining, display)


def run_tasks(
    path: Path,
    spec: StudySpec,
    resolved: StudySpec,
    tasks_by_variant: Sequence[Sequence[Task]],
    first: VariantFiles,
    remaining: Iterator[VariantFiles],
    display: Display,
) -> StudyRun:
    """Run what is missing of the tasks of each variant, and label it by every instrument.

    ``spec`` is recorded, ``resolved`` is what it means; ``first`` and ``remaining`` are the files
    of the variants. Raises BadInput.
    """
    tasks = list(chain.from_iterable(tasks_by_variant))
    if skipped := skipped_conditions(resolved, tasks):
        display.note(f"left out, nothing to ask with these options: {', '.join(skipped)}")
    for line in unenforced_keywords(resolved, tasks):
        display.note(line)
    model = first.models[0] if first.models else None
    with Store(path) as store:
        begun = store.provenance()
        context = select_context(resolved, tasks_by_variant, begun, model, display.note)
        spec, resolved = (each.with_values(context=context) for each in (spec, resolved))
        store.pin({**_pins(resolved, first), **_file_pins(first)})
        attention, source = select_attention(
            resolved, tasks_by_variant, begun, store.has_rollouts(), model
        )
        resolved = resolved.with_values(flash_attention=attention)
        parallel = _parallel(store, resolved, tasks_by_variant, first, display.note)
        resolved = resolved.with_values(parallel=parallel.number)
        reasons = {SOURCE: parallel.reason, ATTENTION_SOURCE: source}
        store.note({**_facts(spec, resolved), **reasons})
        variants = [first]
        _record_file(store, variants)
        open_named = partial(open_instrument, spec=resolved, files=first)
        with display.progress(resolved.personas) as progress:
            classifier = open_named(resolved.instrument)
            in_turn = _in_turn(variants, remaining, store, progress)
            run(tasks_by_variant, resolved, in_turn, classifier, store, progress)
        label_with_others(store, resolved.instruments[1:], open_named, display.note)
        if place := store.provenance().get(SYSTEM_PROMPTS):
            display.note(f"the chat template takes no system prompts; they went {place}")
        if cut := store.provenance().get(TEXTS_CUT):
            display.note(
                f"the classifier read {cut['limit']} tokens of {cut['texts']} longer texts"
            )
    return StudyRun(path, resolved, variants, tasks)


def check_study(store: Store, resolved: StudySpec, files: VariantFiles) -> None:
    """Raises BadInput where a study that has begun was made with something else, before anything is
    made for it. A context that was not given is chosen later."""
    pins = {**_pins(resolved, files), **_file_pins(files)}
    if "context" not in resolved.model_fields_set:
        pins.pop("context", None)
    store.check_pins(pins)


def _parallel(
    store: Store,
    spec: StudySpec,
    tasks: Sequence[Sequence[Task]],
    first: VariantFiles,
    note: Notify,
) -> Parallel:
    """The number of rollouts at once: the spec's, else the study's, else one calibrated now."""
    if spec.parallel:
        return Parallel(spec.parallel, "given")
    rollouts, begun = most_rollouts(tasks), store.has_rollouts()
    if begun and (recorded := recorded_parallel(store.provenance(), rollouts)):
        return recorded
    catalogue = study_catalogue(spec)
    variants = variants_of(spec, catalogue)
    model = first.models[0] if first.models else None
    parallel = planned_parallel(spec, variants, tasks, catalogue, model)
    if parallel.reason != "open" or model is None:
        return parallel
    room = memory_room(spec, variants, catalogue)
    speeds = calibrate(model, model_options(spec, variants[0], model), room)
    parallel = select_parallel(speeds, rollouts, room)
    note(f"rollouts at once: {parallel}")
    return parallel


def _in_turn(
    variants: list[VariantFiles],
    remaining: Iterator[VariantFiles],
    store: Store,
    progress: Progress,
) -> Iterator[VariantFiles]:
    """The first variant's files, then the others', each made and recorded when it is asked for.

    They are added to ``variants``.
    """
    yield variants[0]
    while True:
        with progress.paused():
            files = next(remaining, None)
        if files is None:
            return
        store.pin(_file_pins(files))
        variants.append(files)
        _record_file(store, variants)
        yield files


def _record_file(store: Store, variants: Sequence[VariantFiles]) -> None:
    """Record what the last variant's file holds, unless a variant before has the same."""
    if any(files is variants[-1] for files in distinct_files(variants)):
        store.add_file(model_file(variants[-1]))


def forecast_study(spec: StudySpec) -> Forecast:
    """What a study would fetch, make and cost. Raises BadInput for an empty grid."""
    resolved = resolve(spec)
    catalogue = study_catalogue(resolved)
    return forecast(resolved, variants_of(resolved, catalogue), catalogue)


def study_path(spec: StudySpec, base: str) -> Path:
    """The study's file, by default named after the base, the seed and the part of the rollouts."""
    part = "-part{}of{}".format(*spec.shard) if spec.shard else ""
    return spec.study or Path("runs") / f"{base}-seed{spec.seed}{part}.sqlite"


def skipped_conditions(spec: StudySpec, tasks: Sequence[Task]) -> list[str]:
    """The conditions that do not fit the stages, personas and inputs of the spec."""
    names = {task.cell.condition for task in tasks}
    return [name for name in spec.conditions if name not in names]


def _pins(spec: StudySpec, files: VariantFiles) -> dict[str, Any]:
    """What must not differ between two runs of one study, whatever the variant."""
    suffixes = spec.suffixes or load_protocol(spec.protocol).suffixes
    inputs = input_hashes(prompt_file(spec.prompts), spec.scenarios, suffixes)
    if {*AXIS_CEILINGS, *AXIS_CEILINGS.values()}.isdisjoint(spec.conditions):
        del inputs["axes"]
    return {
        "seed": spec.seed,
        "temperature": spec.temperature,
        "top_p": spec.top_p,
        "max_tokens": spec.max_tokens,
        "max_steps": spec.steps,
        **{name: getattr(spec, name) for name in ASSUMED if name != "instrument"},
        **instrument_pins(spec, files),
        **({} if spec.is_served else {"context": spec.context}),
        # what its files read is recorded without a training seed
        **({"train_seed": list(spec.train_seeds)} if spec.is_quant_study else {}),
        **{f"sha256 {name}": digest for name, digest in inputs.items()},
    }


def _file_pins(files: VariantFiles) -> dict[str, Any]:
    """The same for the models of a variant."""
    served = {f"served {role}": name for role, name in files.served.items()}
    return {**served, **{f"sha256 {role}": digest for role, digest in files.hashes().items()}}


def _facts(spec: StudySpec, resolved: StudySpec) -> dict[str, Any]:
    """What may differ: the machine, the versions, and the spec itself."""
    return {
        "packages": {name: version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "arguments": sys.argv[1:],
        NUMBER: resolved.parallel,
        ATTENTION: resolved.flash_attention,
        "gpu_layers": resolved.gpu_layers,
        "overrides": overrides(spec),
        SPEC: spec.recorded(),
    }


def overrides(spec: StudySpec) -> dict[str, Any]:
    """The protocol's values that the spec replaces, each with the spec's own."""
    recorded = spec.recorded()
    own = parse_spec({**recorded, **protocol_values(spec.protocol, recorded)}).recorded()
    changed = [name for name in load_protocol(spec.protocol).defaults if name in own]
    return {
        name: {"protocol": own[name], "here": recorded[name]}
        for name in changed
        if own[name] != recorded[name]
    }


def _scores(
    store: Store, tasks: Sequence[Task], spec: StudySpec, cluster: str
) -> tuple[Scores, list[InstrumentScores]]:
    """Scores of the spec's cells over its rollouts, by each instrument: a study may hold others."""
    keys = {task.key for task in tasks}
    rows = [row for row in store.rows() if row.key in keys]
    cells = list(dict.fromkeys(task.cell for task in tasks))
    clusters = study_clusters(cluster, store.path, rows, store.provenance(), spec.scenarios)
    scores = score_study(rows, cells, spec.personas, spec.seed, clusters)
    labels = {name: store.labels(name) for name in spec.instruments[1:]}
    others = score_instruments(scores, rows, labels, spec.personas, spec.seed, clusters)
    return scores, others

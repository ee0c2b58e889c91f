"""What a study would fetch, make and cost, before anything starts."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charprobe_lite.convert.cached import adapter_file, classifier_folder, model_file
from charprobe_lite.convert.quantize import IMATRIX_TYPES, ROW_TYPES
from charprobe_lite.eval.study.context import planned_context
from charprobe_lite.eval.study.grid import tasks_of
from charprobe_lite.eval.study.memory import installed_memory, size_text, study_memory
from charprobe_lite.eval.study.own_models import study_catalogue
from charprobe_lite.eval.study.pace import running_seconds
from charprobe_lite.eval.study.parallel import Parallel, planned_parallel, unlimited_parallel
from charprobe_lite.eval.study.progress import duration
from charprobe_lite.eval.study.spec import StudySpec, parse_spec, resolve
from charprobe_lite.eval.study.tool_schemas import unenforced_keywords
from charprobe_lite.eval.study.variants import (
    CheckpointKey,
    CheckpointNeed,
    ModelNeed,
    Variant,
    base_of,
    checkpoint_name,
    checkpoint_needs,
    variants_of,
)
from charprobe_lite.models.cache import cache_folder, existing_folder
from charprobe_lite.models.catalogue import Catalogue
from charprobe_lite.models.catalogue_schema import AdapterEntry, Base, ClassifierEntry, Source
from charprobe_lite.models.defaults import PARALLEL
from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.hub import cache_root, local_path
from charprobe_lite.models.inventory import bytes_to_fetch
from charprobe_lite.models.size_estimates import (
    adapter_parameters,
    file_bytes,
)

if TYPE_CHECKING:
    from rich.table import Table

# weights per core and second, and seconds to start with: `python bench/real_size.py`
MERGED, CHECKED, ADAPTER, CLASSIFIER = 110e6, 60e6, 1.4e6, 1.5e6
CHECK_START, CLASSIFIER_START = 10, 20
QUANTIZED = {
    name: rate
    for rate, names in (
        (70e6, "Q5_1 Q5_0 Q4_1 Q4_0"),
        (13e6, "Q6_K Q3_K_L Q3_K_M Q3_K_S Q2_K"),
        (10e6, "Q5_K_M Q5_K_S Q4_K_M Q4_K_S"),
        (2e6, "IQ4_NL IQ4_XS IQ3_M IQ3_S IQ3_XS IQ2_M"),
    )
    for name in names.split()
}
"""Weights that llama.cpp's quantizer does per core and second: `python bench/quantizers.py`."""


@dataclass(frozen=True)
class Line:
    """One thing that is needed: what is done for it, the bytes that it takes on disk, and the
    seconds to convert it on this machine."""

    what: str
    action: str
    download: int = 0
    disk: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Forecast:
    """Everything that is needed. Bytes, seconds; ``memory`` None where the shape is unknown.

    ``context`` is how many tokens each rollout may fill, ``parallel`` how many run at once, or the
    most that auto may choose, with its reason in words; ``tokens_per_second`` their speed, None
    where it has not been calibrated.
    """

    needed: list[Line]
    temporary: int
    memory: int | None
    rollouts: int
    running_seconds: float
    checks_memory: bool
    context: int
    parallel: int
    parallel_reason: str
    tokens_per_second: float | None

    @property
    def preparing_seconds(self) -> float:
        """Seconds to convert everything; downloads do not count."""
        return sum(line.seconds for line in self.needed)

    @property
    def disk(self) -> int:
        """Bytes that the converted files take, with the largest temporary file."""
        return sum(line.disk for line in self.needed) + self.temporary

    def lines(self) -> Iterator[str]:
        """The totals, in words."""
        fetched = sum(line.download for line in self.needed)
        written = f"{size_text(self.disk)} in {cache_folder()}"
        yield f"to fetch: {size_text(fetched)}; to write: {written}"
        memory = "unknown" if self.memory is None else size_text(self.memory)
        yield f"rollouts at once: {self.parallel_reason}"
        rollouts = f"{self.parallel} rollouts of up to {self.context} tokens at once"
        yield f"memory while running: about {memory} with {rollouts}"
        speed = " at the calibrated speed" if self.tokens_per_second else "'s CPU"
        yield (
            f"time: about {duration(self.preparing_seconds)} to convert (downloads not counted), "
            f"{duration(self.running_seconds)} for {self.rollouts} rollouts on this machine{speed}"
        )

    def as_json(self) -> dict[str, Any]:
        """The forecast as ``--dry-run --json`` prints it."""
        totals = {"disk": self.disk, "preparing_seconds": self.preparing_seconds}
        return {**asdict(self), **totals}

    def times(self, number: int) -> Forecast:
        """The same for so many studies of equal size, which share all files."""
        return replace(
            self,
            rollouts=number * self.rollouts,
            running_seconds=number * self.running_seconds,
        )

    def over_disk(self) -> str | None:
        """The folder that is too small for what is to be written, in words; None if all fits."""
        fetched, hub = sum(line.download for line in self.needed), cache_root()
        devices = {existing_folder(folder).stat().st_dev for folder in (cache_folder(), hub)}
        shared = len(devices) == 1
        full = _full(cache_folder(), self.disk + (fetched if shared else 0))
        return full or (None if shared else _full(hub, fetched))

    def refuse_what_does_not_fit(self) -> None:
        """BadInput for a disk or a memory that is too small for it."""
        if full := self.over_disk():
            raise BadInput(
                f"{full}; free space, choose a smaller --quant, or set CHARPROBE_CACHE and HF_HOME"
            )
        installed = installed_memory()
        if self.checks_memory and self.memory and installed and self.memory > installed:
            raise BadInput(
                f"about {size_text(self.memory)} of memory are needed, this machine has "
                f"{size_text(installed)}; choose a smaller --quant, --parallel or --context"
            )


def forecast(spec: StudySpec, variants: Sequence[Variant], catalogue: Catalogue) -> Forecast:
    """What a resolved spec needs, on this machine.

    Raises BadInput for an empty grid and a tool whose schema has no grammar.
    """
    for variant in variants:
        if variant.quant in IMATRIX_TYPES:
            raise BadInput(
                f"--quant {variant.quant}: needs an importance matrix; make the file with convert "
                "imatrix and convert quantize, and name it with --gguf"
            )
    base = base_of(spec, variants[0], catalogue)
    needs = [need for variant in variants for need in checkpoint_needs(spec, variant, catalogue)]
    made = needs if spec.makes_models else []
    models = {_model_label(need.model): need.model for need in made}
    exact = {
        model.name
        for model in models.values()
        if model.quant == "F16" or _is_made(model, "F16", spec.verify)
    }
    lines = [_model_line(label, model, spec.verify, exact) for label, model in models.items()]
    merges = [
        line.disk and model.quant not in ROW_TYPES and model.name not in exact
        for line, model in zip(lines, models.values(), strict=True)
    ]
    tasks = tasks_of(spec, variants)
    unenforced_keywords(spec, list(chain.from_iterable(tasks)))  # refuses what has no grammar
    rollouts = sum(task.cell.quant is not None for part in tasks for task in part)
    first = _made_file(needs[0].model, spec.verify) if made else spec.gguf
    spec = spec.with_values(context=planned_context(spec, tasks, first))
    parallel = planned_parallel(spec, variants, tasks, catalogue, first)
    number = parallel.number
    memory = max(study_memory(base, variant, spec, number).total for variant in variants)
    return Forecast(
        needed=[*_source_lines(spec, base, needs, catalogue), *lines],
        temporary=file_bytes(base, "F16") if any(merges) else 0,
        memory=memory if base.shape else None,
        rollouts=rollouts,
        running_seconds=running_seconds(
            *(chain.from_iterable(tasks), spec.max_tokens),
            *(parallel.tokens_per_second, base.parameters),
        ),
        checks_memory=spec.gpu_layers == 0,
        context=spec.context,
        parallel=number,
        parallel_reason=str(parallel),
        tokens_per_second=parallel.tokens_per_second,
    )


def embedded_parallel() -> Parallel | None:
    """What auto is for large studies of the embedded base as it is run by default.

    None where it has not been calibrated. Raises BadInput where llama.cpp does not work.
    """
    spec = resolve(parse_spec({"stage": "base", "persona": "all"}))
    catalogue = study_catalogue(spec)
    variants = variants_of(spec, catalogue)
    need = next(checkpoint_needs(spec, variants[0], catalogue))
    model = _made_file(need.model, spec.verify)
    parallel = unlimited_parallel(spec, variants, catalogue, model)
    return None if parallel.reason == "open" else parallel


def within_budget(
    spec: StudySpec, catalogue: Catalogue, memory: int | None = None
) -> tuple[list[str], dict[str, str]]:
    """The quant types of a resolved spec that fit, in their order, and why each other does not.

    ``memory`` is in bytes; without, it is what the machine has, unless a GPU holds the model. The
    files of all types that are kept must fit on the disk together.
    """
    limit, owner = memory, "the budget is"
    if limit is None and spec.gpu_layers == 0:
        limit, owner = installed_memory(), "this machine has"
    kept: list[str] = []
    left_out = {}
    for quant in spec.quants:
        if quant in IMATRIX_TYPES:
            left_out[quant] = "it needs an importance matrix"
            continue
        candidate = spec.with_values(quants=(*kept, quant))
        variants = variants_of(candidate, catalogue)
        estimate = forecast(candidate, variants, catalogue)
        grown = candidate.with_values(context=estimate.context)
        base = base_of(spec, variants[0], catalogue)
        of_quant = [variant for variant in variants if variant.quant == quant]
        memories = [study_memory(base, each, grown) for each in of_quant]
        needed = max(memories, key=lambda each: each.total)
        if limit is not None and needed.total > limit:
            left_out[quant] = (  # two digits: the two may be close
                f"{needed.total / 1e9:.2f} GB of memory ({needed}), {owner} {limit / 1e9:.2f} GB"
            )
        elif full := estimate.over_disk():
            left_out[quant] = full
        else:
            kept.append(quant)
    return kept, left_out


def fit_budget(spec: StudySpec, budget: int | str | None, note: Callable[[str], None]) -> StudySpec:
    """The spec with the quant types that fit ``budget``: bytes of memory, or "machine".

    What is left out is noted, with the reason. With a budget ``parallel`` is a number: its memory
    must be known beforehand. Raises BadInput when nothing fits.
    """
    if budget is None:
        return spec
    spec = spec.with_values(parallel=spec.parallel or PARALLEL)
    if not spec.makes_models:
        raise BadInput("--budget: chooses quant types of a base of the catalogue")
    memory = budget if isinstance(budget, int) else None
    kept, left_out = within_budget(resolve(spec), study_catalogue(spec), memory)
    for quant, reason in left_out.items():
        note(f"{quant}: left out, {reason}")
    if not kept:
        raise BadInput("--budget: none of the quant types fits; add smaller ones")
    return spec.with_values(quants=tuple(kept))


def _source_lines(
    spec: StudySpec, base: Base, needs: Sequence[CheckpointNeed], catalogue: Catalogue
) -> list[Line]:
    """What is fetched: the base, adapters (and their GGUF files), the classifier."""
    lines: dict[str, Line] = {}
    if needs:
        lines["base"] = _source_line(f"base {base.name}", base, base)
    for need in needs:
        entries = [*need.model.adapters, *([need.adapter] if need.adapter else [])]
        entry = entries[-1] if entries and need.key.stage != "base" else None
        if isinstance(entry, Path) and entry == spec.adapter:
            lines["adapter"] = Line(f"adapter ({entry})", "here")
        if not isinstance(entry, AdapterEntry):
            continue
        line = _source_line(f"adapter {_key_label(need.key)}", entry, base)
        if need.adapter and not _is_converted(need, entry):
            size = adapter_parameters(base.shape, entry.rank) if base.shape and entry.rank else 0
            line = _converted(line, 2 * size, _seconds(size / ADAPTER))
        if line.what not in lines or line.disk > lines[line.what].disk:
            lines[line.what] = line
    classifier = catalogue.classifiers.get(base.name)
    if classifier and not spec.classifier:
        lines["classifier"] = _classifier_line(classifier, base, spec.verify)
    return list(lines.values())


def _source_line(what: str, source: Source, base: Base) -> Line:
    if local_path(source):
        return Line(f"{what} ({source.source})", "here")
    return Line(f"{what} ({source.source})", "fetch", bytes_to_fetch(source, base))


def _converted(line: Line, disk: int, seconds: float) -> Line:
    """The line of what is to be converted, after it is fetched if that is to be done too."""
    action = "convert" if line.action == "here" else line.action
    return replace(line, action=action, disk=disk, seconds=seconds)


def _classifier_line(entry: ClassifierEntry, base: Base, verify: bool) -> Line:
    line, source = _source_line("classifier", entry, base), local_path(entry)
    if source and classifier_folder(entry.name, source, verify).is_dir():
        return line
    size = entry.parameters or 0
    return _converted(line, 4 * size, CLASSIFIER_START + _seconds(size / CLASSIFIER))


def _is_converted(need: CheckpointNeed, entry: AdapterEntry) -> bool:
    """Whether an adapter is a GGUF file, its own or one in the cache."""
    source, base = local_path(entry), local_path(need.model.base)
    if source is None or not source.is_dir():
        return source is not None
    name = checkpoint_name(need.model.base.name, need.key)
    return base is not None and adapter_file(name, source, base).is_file()


def _model_label(model: ModelNeed) -> str:
    return f"model {model.quant} {_key_label(model.key) if model.key else 'base'}"


def _key_label(key: CheckpointKey) -> str:
    return str(key).replace("/", " ")


def _model_line(label: str, model: ModelNeed, verify: bool, exact: Collection[str]) -> Line:
    """A model file: in the cache already, or to be made, for the names in ``exact`` from F16."""
    if _is_made(model, model.quant, verify):
        return Line(label, "here")
    weights, by_row, seconds = model.base.parameters, model.quant in ROW_TYPES, 0.0
    if by_row or model.name not in exact:
        seconds += _seconds(weights / MERGED)
        seconds += verify * (CHECK_START + _seconds(weights / CHECKED))
    if not by_row:
        seconds += _seconds(weights / QUANTIZED[model.quant])
    return Line(label, "convert", 0, file_bytes(model.base, model.quant), seconds)


def _is_made(model: ModelNeed, quant: str, verify: bool) -> bool:
    """Whether the cache has the model as a quant type."""
    return _made_file(replace(model, quant=quant), verify) is not None


def _made_file(model: ModelNeed, verify: bool) -> Path | None:
    """The model's file in the cache; None where it is to be made."""
    source = local_path(model.base)
    adapters = [each if isinstance(each, Path) else local_path(each) for each in model.adapters]
    if source is None or None in adapters:
        return None
    paths = [path for path in adapters if path]
    file = model_file(model.name, source, paths, model.quant, verify)
    return file if file.is_file() else None


def _seconds(core_seconds: float) -> float:
    """Seconds of work that all cores share."""
    return core_seconds / (os.cpu_count() or 1)


def forecast_table(estimate: Forecast) -> Table:
    """What is needed, line by line."""
    from rich.table import Table

    table = Table("needed", "what is done", "to fetch", "on disk", "time", box=None)
    for line in estimate.needed:
        sizes = (size_text(size) if size else "-" for size in (line.download, line.disk))
        time = duration(line.seconds) if line.seconds else "-"
        table.add_row(line.what, line.action, *sizes, time)
    return table


def _full(folder: Path, needed: int) -> str | None:
    free = shutil.disk_usage(existing_folder(folder)).free
    if needed <= free:
        return None
    return f"{folder}: {size_text(needed)} are to be written, {size_text(free)} are free"

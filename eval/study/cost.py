"""What a study would fetch, make and cost, before anything starts."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charprobe_lite.convert.cached import model_file
from charprobe_lite.convert.quantize import IMATRIX_TYPES, ROW_TYPES
from charprobe_lite.eval.study.checkpoints import MERGED, Wanted, below
from charprobe_lite.eval.study.progress import duration
from charprobe_lite.eval.study.runner import Settings
from charprobe_lite.models.cache import cache_folder
from charprobe_lite.models.catalogue import Catalogue
from charprobe_lite.models.catalogue_schema import Base, Source
from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.hub import cache_root, downloaded_bytes, local_path
from charprobe_lite.models.size_estimates import (
    adapter_parameters,
    download_bytes,
    file_bytes,
    kv_bytes,
)

if TYPE_CHECKING:
    from rich.table import Table

CONVERTED_PER_SECOND = 60e6
"""Weights per core: half of what `python bench/convert.py` measures, for the check after it."""
SECONDS_PER_ROLLOUT = 1.6 * 2
"""Core-seconds of a rollout per 135M weights: the README's study on the embedded base."""
BUFFERS = 500e6  # bytes: llama.cpp's compute buffers, the classifier, Python


@dataclass(frozen=True)
class Line:
    """One thing that is needed: what is done for it, and the bytes that it takes on disk."""

    what: str
    action: str
    download: int
    disk: int


@dataclass(frozen=True)
class Forecast:
    """Everything that is needed. Bytes, seconds; ``memory`` None where the shape is unknown."""

    needed: list[Line]
    temporary: int
    memory: int | None
    rollouts: int
    preparing_seconds: float
    running_seconds: float
    checks_memory: bool

    @property
    def disk(self) -> int:
        """Bytes that the converted files take, with the largest temporary file."""
        return sum(line.disk for line in self.needed) + self.temporary

    def lines(self) -> Iterator[str]:
        """The totals, in words."""
        fetched = sum(line.download for line in self.needed)
        yield f"to fetch: {_size(fetched)}; to write: {_size(self.disk)} in {cache_folder()}"
        memory = "unknown" if self.memory is None else _size(self.memory)
        yield f"memory while running: about {memory}"
        yield (
            f"time: about {duration(self.preparing_seconds)} to convert (downloads not counted), "
            f"{duration(self.running_seconds)} for {self.rollouts} rollouts on this machine's CPU"
        )

    def as_json(self) -> dict[str, Any]:
        """The forecast as ``--dry-run --json`` prints it."""
        return {**asdict(self), "disk": self.disk}

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
        ours, theirs = _existing(cache_folder()), _existing(hub)
        shared = ours.stat().st_dev == theirs.stat().st_dev
        own = _full(cache_folder(), ours, self.disk + (fetched if shared else 0))
        return own or (None if shared else _full(hub, theirs, fetched))

    def refuse_what_does_not_fit(self) -> None:
        """BadInput for a disk or a memory that is too small for it."""
        if full := self.over_disk():
            raise BadInput(
                f"{full}; free space, choose a smaller --quant, or set CHARPROBE_CACHE and HF_HOME"
            )
        installed = installed_memory()
        if self.checks_memory and self.memory and installed and self.memory > installed:
            raise BadInput(
                f"about {_size(self.memory)} of memory are needed, this machine has "
                f"{_size(installed)}; choose a smaller --quant, --parallel or --context"
            )


def forecast(several: Sequence[Wanted], catalogue: Catalogue, settings: Settings) -> Forecast:
    """What a study on a base of the catalogue needs, which all of ``several`` are variants of.

    Raises BadInput for a grid that is none.
    """
    for wanted in several:
        if wanted.quant in IMATRIX_TYPES:
            raise BadInput(
                f"--quant {wanted.quant}: needs an importance matrix; make the file with convert "
                "imatrix and convert quantize, and name it with --gguf"
            )
    base = catalogue.base(several[0].base)
    lines = [line for wanted in several for line in _downloads(wanted, catalogue)]
    made = [(wanted.quant, line) for wanted in several for line in _models(wanted, catalogue)]
    to_make = {line.what: quant for quant, line in made if line.disk}
    cores = os.cpu_count() or 1
    rollouts = _rollouts(several, catalogue, settings)
    memory = [sum(_memory_parts(base, wanted, settings).values()) for wanted in several]
    return Forecast(
        needed=_each_once([*lines, *(line for _, line in made)]),
        temporary=file_bytes(base, "F16") if set(to_make.values()) - set(ROW_TYPES) else 0,
        memory=round(max(memory)) if base.shape else None,
        rollouts=rollouts,
        preparing_seconds=len(to_make) * base.parameters / CONVERTED_PER_SECOND / cores,
        running_seconds=rollouts * SECONDS_PER_ROLLOUT * base.parameters / 135e6 / cores,
        checks_memory=settings.gpu_layers == 0,
    )


def within_budget(
    several: Sequence[Wanted], catalogue: Catalogue, settings: Settings, memory: int | None = None
) -> tuple[list[Wanted], dict[str, str]]:
    """Those whose quant type fits, in the order asked, and why each other type does not.

    ``memory`` is in bytes; without, it is what the machine has, unless a GPU holds the model. The
    files of all types that are kept must find room on the disk together.
    """
    limit, whose = memory, "the budget is"
    if limit is None and settings.gpu_layers == 0:
        limit, whose = installed_memory(), "this machine has"
    kept: list[Wanted] = []
    left_out = {}
    for quant in dict.fromkeys(wanted.quant for wanted in several):
        own = [wanted for wanted in several if wanted.quant == quant]
        parts = _memory_parts(catalogue.base(own[0].base), own[0], settings)
        needed = sum(parts.values())
        if quant in IMATRIX_TYPES:
            left_out[quant] = "it needs an importance matrix"
        elif limit is not None and needed > limit:
            # two digits: the two may be close
            named = ", ".join(f"{name} {_size(size)}" for name, size in parts.items())
            sizes = f"{needed / 1e9:.2f} GB of memory ({named}), {whose} {limit / 1e9:.2f} GB"
            left_out[quant] = sizes
        elif full := forecast([*kept, *own], catalogue, settings).over_disk():
            left_out[quant] = full
        else:
            kept += own
    return kept, left_out


def _each_once(lines: Sequence[Line]) -> list[Line]:
    """What several variants need, with what one of them writes for it."""
    found: dict[str, Line] = {}
    for line in lines:
        if line.what not in found or line.disk > found[line.what].disk:
            found[line.what] = line
    return list(found.values())


def _models(wanted: Wanted, catalogue: Catalogue) -> list[Line]:
    """The model files: the base's, and with merged adapters one for every other checkpoint."""
    models = dict.fromkeys(
        pair if wanted.lora == MERGED and pair[0] != "base" else ("base", "")
        for pair in wanted.grid(catalogue)
    )
    return [_model_line(wanted, catalogue, *pair) for pair in models]


def _downloads(wanted: Wanted, catalogue: Catalogue) -> Iterator[Line]:
    base, grid = catalogue.base(wanted.base), wanted.grid(catalogue)
    if grid:
        yield _source_line(f"base {base.name}", base, base)
    for stage, persona in grid:
        entry = catalogue.adapter(wanted.base, stage, persona)
        if stage == "base" or wanted.adapter or entry is None:
            continue
        line = _source_line(f"adapter {stage} {persona}", entry, base)
        if wanted.lora != MERGED and entry.repository and base.shape and entry.rank:
            converted = 2 * adapter_parameters(base.shape, entry.rank)
            line = Line(line.what, line.action, line.download, converted)
        yield line
    classifier = catalogue.classifier(wanted.base)
    if classifier and not wanted.classifier:
        yield _source_line("classifier", classifier, base)


def _source_line(what: str, source: Source, base: Base) -> Line:
    if local_path(source):
        return Line(f"{what} ({source.source})", "here", 0, 0)
    size = max(0, (download_bytes(source, base) or 0) - downloaded_bytes(source))
    return Line(f"{what} ({source.source})", "fetch", size, 0)


def _model_line(wanted: Wanted, catalogue: Catalogue, stage: str, persona: str) -> Line:
    """The model file of a checkpoint: in the cache already, or to be made."""
    base = catalogue.base(wanted.base)
    name = " ".join(["model", wanted.quant, stage, persona]).strip()
    source = local_path(base)
    entry = catalogue.adapter(wanted.base, stage, persona)
    adapter = wanted.adapter or (local_path(entry) if entry else None)
    if source and (stage == "base" or adapter):
        adapters = [*below(base), *([adapter] if adapter and stage != "base" else [])]
        stem = wanted.base if stage == "base" else f"{wanted.base}-{stage}-{persona}"
        if model_file(stem, source, adapters, wanted.quant, wanted.verify).is_file():
            return Line(name, "here", 0, 0)
    return Line(name, "convert", 0, file_bytes(base, wanted.quant))


def _memory_parts(base: Base, wanted: Wanted, settings: Settings) -> dict[str, float]:
    """Bytes of memory when most is needed, and of what; without a shape there is no KV cache."""
    weights, buffers = file_bytes(base, wanted.quant), {"classifier and buffers": BUFFERS}
    cache = kv_bytes(base.shape, settings.context, settings.parallel) if base.shape else 0
    running = {"weights": weights, "KV cache": cache, **buffers}
    if not wanted.beside:
        return running
    beside = {f"those of {wanted.beside} beside them": file_bytes(base, wanted.beside)}
    return max(running, {"weights": weights, **beside, **buffers}, key=lambda n: sum(n.values()))


def _rollouts(several: Sequence[Wanted], catalogue: Catalogue, settings: Settings) -> int:
    """Rollouts of the whole grid on a checkpoint."""
    from charprobe_lite.eval.study.runner import tasks_of

    found = tasks_of(settings, [wanted.variant(catalogue) for wanted in several])
    return sum(1 for tasks in found for task in tasks if task.cell.quant)


def installed_memory() -> int | None:
    """Bytes of this machine's memory; None where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def table(found: Forecast) -> Table:
    """What is needed, line by line."""
    from rich.table import Table

    table = Table("needed", "what is done", "to fetch", "on disk", box=None)
    for line in found.needed:
        sizes = (_size(size) if size else "-" for size in (line.download, line.disk))
        table.add_row(line.what, line.action, *sizes)
    return table


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    return next(each for each in (folder.absolute(), *folder.absolute().parents) if each.is_dir())


def _full(folder: Path, there: Path, needed: int) -> str | None:
    free = shutil.disk_usage(there).free
    if needed <= free:
        return None
    return f"{folder}: {_size(needed)} are to be written, {_size(free)} are free"


def _size(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"

"""What a variant's model file costs: real size, speed, memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from charprobe_lite.eval.store.records import ModelFile
from charprobe_lite.eval.study.checkpoints import Checkpoint, Files
from charprobe_lite.eval.study.runner import Settings
from charprobe_lite.models.gguf_header import weight_summary
from charprobe_lite.runtime.backend import BackendOptions
from charprobe_lite.runtime.speed import measure_speed


def cost_of(files: Files) -> ModelFile:
    """What the file of the most trained stage's first persona holds. Raises BadInput."""
    model, adapter = paths(example(files))
    held = weight_summary(model)
    return ModelFile(
        base=files.base,
        quant=files.quant,
        lora=files.way,
        bits_per_weight=held.bits_per_weight,
        bytes=sum(path.stat().st_size for path in (model, adapter) if path),
        tensor_types=held.tensor_types,
    )


def timed(file: ModelFile, files: Files, settings: Settings) -> ModelFile:
    """The same with speed and peak memory, measured in a new process. Raises BadInput."""
    model, adapter = paths(example(files))
    options = BackendOptions(
        parallel=settings.parallel,
        context=settings.context,
        threads=settings.threads,
        gpu_layers=settings.gpu_layers,
    )
    found = measure_speed(model, adapter, options)
    return replace(file, tokens_per_second=found.tokens_per_second, peak_bytes=found.peak_bytes)


def example(files: Files) -> Checkpoint:
    """The checkpoint of the first persona in the most trained stage."""
    stage = files.most_trained
    return next(each for (own, _), each in files.checkpoints.items() if own == stage)


def paths(checkpoint: Checkpoint) -> tuple[Path, Path | None]:
    """Model and adapter of a checkpoint that is files. Raises ValueError for one on a server."""
    if isinstance(checkpoint.model, str) or isinstance(checkpoint.adapter, str):
        raise ValueError("a checkpoint on a server has no files")
    return checkpoint.model, checkpoint.adapter


def distinct(several: Sequence[Files]) -> list[Files]:
    """Variants that are not another's files: the base stage is the same in both ways."""
    found: dict[tuple[str, str], Files] = {}
    for files in several:
        if files.models:
            found.setdefault((files.quant, files.way), files)
    return list(found.values())

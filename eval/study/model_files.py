"""What a variant's model file costs: real size, speed, memory."""

from __future__ import annotations

from dataclasses import replace

from charprobe_lite.eval.store.records import ModelFile
from charprobe_lite.eval.study.checkpoints import VariantFiles
from charprobe_lite.eval.study.spec import StudySpec
from charprobe_lite.models.gguf_header import weight_summary
from charprobe_lite.runtime.speed import measure_speed


def model_file(files: VariantFiles) -> ModelFile:
    """What the file of the most trained stage's first persona holds. Raises BadInput."""
    model, adapter = files.example.files
    weights = weight_summary(model)
    return ModelFile(
        base=files.base,
        quant=files.quant,
        lora=files.lora,
        bits_per_weight=weights.bits_per_weight,
        bytes=sum(path.stat().st_size for path in (model, adapter) if path),
        tensor_types=weights.tensor_types,
    )


def with_speed(file: ModelFile, files: VariantFiles, spec: StudySpec) -> ModelFile:
    """The same with speed and peak memory, measured in a new process. Raises BadInput."""
    model, adapter = files.example.files
    measurement = measure_speed(model, adapter, spec.backend_options)
    return replace(
        file,
        tokens_per_second=measurement.tokens_per_second,
        peak_bytes=measurement.peak_bytes,
    )

"""GGUF LoRA files: adapters that llama.cpp adds to a loaded base while it runs.

Layout: llama.cpp's (``TENSOR.lora_a`` is (rank, in), ``.lora_b`` (out, rank), and
``adapter.lora.alpha``); the change is ``alpha / rank * B @ A``. For the embedding, whose rows are
looked up, ``lora_a`` is (vocabulary, rank), ``lora_b`` (width, rank), and the change ``A @ B.T``.
"""

from collections.abc import Mapping
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as QuantType

from charprobe_lite.convert.architectures import architecture_of_gguf
from charprobe_lite.convert.gguf_model import SourceModel, open_model
from charprobe_lite.convert.gguf_writer import finish_gguf
from charprobe_lite.convert.lora import (
    EMBEDDING,
    HEAD,
    Adapter,
    Delta,
    Replacement,
    in_memory,
    peft_delta,
    read_adapter,
    transposed,
)
from charprobe_lite.convert.quantize import Array, GGUFFile, written_file
from charprobe_lite.models.atomic import AT_ONCE, FOREVER, new_file
from charprobe_lite.models.errors import BadInput
from charprobe_lite.runtime.llama.quantizer import quantize_rows

READ_BACK = 0.01
"""Largest relative error of a change as it is read back; F16 rounding is far below it."""


def convert_adapter(
    adapter: str | Path, base: str | Path, target: str | Path, *, shared: bool = False
) -> GGUFFile:
    """Write a PEFT LoRA folder as a GGUF LoRA of ``base`` (checkpoint folder or GGUF), F16.

    Each change is read back and compared before the file takes its name. A ``shared`` target may
    be written by another process: wait for it, and keep its file. Raises BadInput for an adapter
    of another base, one that replaces complete tensors, or that changes a tied embedding or output.
    """
    model, target = open_model(Path(base)), Path(target)
    changes: dict[str, Delta] = {}
    source = read_adapter(Path(adapter), model.architecture)
    for name, change in source.changes.items():
        changes[name] = _at_run_time(name, change, model, adapter)
    for name, own in source.base.items():
        # PEFT saves the embeddings under its LoRA too, unchanged where their size is the base's
        if name not in changes or own.shape != model.tensors[name].shape:
            raise _complete(adapter, name)
    with new_file(target, FOREVER if shared else AT_ONCE) as part:
        if not (shared and target.is_file()):
            _write_deltas(changes, model.architecture.name, part, QuantType.F16)
            _check(changes, read_adapter(part, model.architecture), target)
    return written_file(target)


def _at_run_time(
    name: str, change: Delta | Replacement, model: SourceModel, adapter: str | Path
) -> Delta:
    """The change, where llama.cpp can add it to the loaded base. Raises BadInput."""
    if not isinstance(change, Delta):
        raise _complete(adapter, name)
    if name in (EMBEDDING, HEAD) and HEAD not in model.tensors:
        raise BadInput(
            f"{adapter}: tensor {name}: the base's output is its embedding, and an adapter at run "
            "time cannot change one of them alone; use convert merge"
        )
    shape = model.tensors[name].shape if name in model.tensors else None
    if shape != change.shape:
        raise BadInput(
            f"{adapter}: tensor {name}: shape {change.shape}, the base has {shape}; "
            "name an adapter of this base"
        )
    return change


def _complete(adapter: str | Path, name: str) -> BadInput:
    return BadInput(
        f"{adapter}: tensor {name}: saved complete, which an adapter at run time cannot carry; "
        "use convert merge"
    )


def write_adapter(tensors: Mapping[str, Array], alpha: float, base: Path, target: Path) -> None:
    """Write trained tensors with PEFT's names as a GGUF LoRA of ``base``, a GGUF file.

    A matrices are stored as Q8_0, half the size of F16; B matrices, whose rows are as short as
    the rank, as F16.
    """
    architecture = architecture_of_gguf(base)
    changes = {}
    for key, a in tensors.items():
        if key.endswith(".lora_A.weight"):
            module = key.removesuffix(".lora_A.weight")
            pair = in_memory(a), in_memory(tensors[f"{module}.lora_B.weight"])
            name, delta = peft_delta(f"{module}.weight", *pair, alpha, architecture)
            changes[name] = delta
    with new_file(target) as part:
        _write_deltas(changes, architecture.name, part, QuantType.Q8_0)


def _write_deltas(
    changes: Mapping[str, Delta], architecture: str, target: Path, a_type: QuantType
) -> None:
    """Write changes as a GGUF LoRA. One alpha holds for a file: what differs goes into B."""
    first = next(iter(changes.values()))
    alpha = first.scale * first.rank
    writer = gguf.GGUFWriter(target, architecture)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, alpha)
    for name, change in sorted(changes.items()):
        rest = np.float32(change.scale * change.rank / alpha)
        sides = (change.b, transposed(change.a)) if name == EMBEDDING else (change.a, change.b)
        fits = sides[0].shape[1] % gguf.GGML_QUANT_SIZES[a_type][0] == 0
        a, b = (side.rows(0, side.shape[0]) for side in sides)
        _add(writer, f"{name}.lora_a", a, a_type if fits else QuantType.F16)
        _add(writer, f"{name}.lora_b", b * rest, QuantType.F16)
    finish_gguf(writer)


def _add(writer: gguf.GGUFWriter, name: str, values: Array, kind: QuantType) -> None:
    raw_shape = gguf.quant_shape_to_byte_shape(values.shape, kind)
    writer.add_tensor(name, quantize_rows(values, kind).reshape(raw_shape), raw_dtype=kind)


def _check(changes: Mapping[str, Delta], written: Adapter, target: Path) -> None:
    for name, change in changes.items():
        count = change.shape[0]
        expected, values = change.rows(0, count), written.changes[name].rows(0, count)
        error = float(np.abs(values - expected).max())
        if not error <= READ_BACK * float(np.abs(expected).max()):
            raise BadInput(
                f"{target}: tensor {name}: off by {error:.3g} when read back; "
                "its numbers do not fit F16, use convert merge"
            )

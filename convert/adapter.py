"""GGUF LoRA files: written from trained (peft-named) tensors, merged into a GGUF base.

Layout: llama.cpp's ``convert_lora_to_gguf`` (``<tensor>.lora_a`` is (rank, in), ``.lora_b`` is
(out, rank), ``adapter.lora.alpha``); the delta is ``alpha / rank * B @ A``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as QuantType
from numpy.typing import NDArray

from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.gguf_file import read_gguf

Array = NDArray[np.float32]
GGUF_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
MERGE_TYPES = {
    "F32": QuantType.F32,
    "F16": QuantType.F16,
    "BF16": QuantType.BF16,
    "Q8_0": QuantType.Q8_0,
}


def write_adapter(tensors: Mapping[str, Array], alpha: float, base: Path, target: Path) -> None:
    """Write llama LoRA tensors with peft's names as a GGUF adapter of ``base`` (a GGUF file).

    A matrices are stored as Q8_0, B matrices (whose rows are as short as the rank) as F16. The
    rows of q and k are permuted as llama.cpp's rope expects.
    """
    fields = gguf.GGUFReader(base).fields
    architecture = fields["general.architecture"].contents()
    heads = {
        "attn_q": fields[f"{architecture}.attention.head_count"].contents(),
        "attn_k": fields[f"{architecture}.attention.head_count_kv"].contents(),
    }
    part = target.with_suffix(".part")
    writer = gguf.GGUFWriter(part, architecture)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, alpha)
    for name, tensor in sorted(tensors.items()):
        module, side = name.split(".layers.", 1)[1].rsplit(".lora_", 1)
        layer, projection = module.split(".", 1)
        kind = GGUF_NAMES[projection]
        if side.startswith("A"):
            _add(writer, f"blk.{layer}.{kind}.weight.lora_a", tensor, QuantType.Q8_0)
        else:
            rows = _permute(tensor, heads[kind]) if kind in heads else tensor
            _add(writer, f"blk.{layer}.{kind}.weight.lora_b", rows, QuantType.F16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    os.replace(part, target)


def merge_adapter(
    base: Path,
    adapter: Path,
    target: Path,
    quant: str = "Q8_0",
) -> None:
    """Write ``base`` (GGUF) with ``adapter`` (GGUF LoRA) merged in, matrices as ``quant``.

    Tensors are read, dequantized to float32, merged and written one at a time; the metadata and
    the one-dimensional tensors are copied as they are. The target appears when it is complete.
    Raises BadInput for a file that is no GGUF, an adapter of another shape, an unknown type.
    """
    if quant not in MERGE_TYPES:
        raise BadInput(f"--quant {quant}: choose one of {', '.join(MERGE_TYPES)}")
    source, deltas = read_gguf(base), _read_deltas(adapter)
    part = target.with_name(f"{target.name}.{os.getpid()}.part")
    try:
        writer = _copy_metadata(source, part, MERGE_TYPES[quant])
        types = {t.name: _target_type(t, MERGE_TYPES[quant]) for t in source.tensors}
        for tensor in source.tensors:
            shape = [int(size) for size in reversed(tensor.shape)]
            raw_shape = gguf.quant_shape_to_byte_shape(shape, types[tensor.name])
            bytes_ = int(np.prod(raw_shape))
            writer.add_tensor_info(
                tensor.name, raw_shape, np.dtype(np.uint8), bytes_, types[tensor.name]
            )
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for tensor in source.tensors:
            values = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
            if (delta := deltas.pop(tensor.name, None)) is not None:
                values = _added(values, delta, tensor.name, adapter)
            raw = gguf.quantize(values, types[tensor.name]).view(np.uint8)
            writer.write_tensor_data(np.ascontiguousarray(raw))
        writer.close()
        if deltas:
            raise BadInput(f"{adapter}: tensor {next(iter(deltas))} is not in {base.name}")
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


def _read_deltas(adapter: Path) -> dict[str, Callable[[], Array]]:
    """The LoRA deltas by tensor name, computed when they are called."""
    reader = read_gguf(adapter)
    if gguf.Keys.Adapter.LORA_ALPHA not in reader.fields:
        raise BadInput(f"{adapter}: field {gguf.Keys.Adapter.LORA_ALPHA}: missing; not a GGUF LoRA")
    alpha = float(reader.fields[gguf.Keys.Adapter.LORA_ALPHA].contents())
    matrices = {tensor.name: tensor for tensor in reader.tensors}

    def delta(name: str) -> Callable[[], Array]:
        def compute() -> Array:
            a, b = (
                gguf.dequantize(t.data, t.tensor_type).astype(np.float32)
                for t in (matrices[f"{name}.lora_a"], matrices[f"{name}.lora_b"])
            )
            return np.asarray(alpha / a.shape[0] * (b @ a), dtype=np.float32)

        return compute

    names = [name.removesuffix(".lora_a") for name in matrices if name.endswith(".lora_a")]
    return {name: delta(name) for name in names}


def _added(values: Array, delta: Callable[[], Array], name: str, adapter: Path) -> Array:
    change = delta()
    if change.shape != values.shape:
        raise BadInput(
            f"{adapter}: tensor {name}: shape {change.shape}, the base has {values.shape}; "
            "name an adapter of this base"
        )
    return values + change


def _target_type(tensor: gguf.ReaderTensor, wanted: QuantType) -> QuantType:
    if len(tensor.shape) < 2:
        return QuantType.F32
    return wanted


def _copy_metadata(source: gguf.GGUFReader, target: Path, wanted: QuantType) -> gguf.GGUFWriter:
    file_types = {
        QuantType.F32: gguf.LlamaFileType.ALL_F32,
        QuantType.F16: gguf.LlamaFileType.MOSTLY_F16,
        QuantType.BF16: gguf.LlamaFileType.MOSTLY_BF16,
        QuantType.Q8_0: gguf.LlamaFileType.MOSTLY_Q8_0,
    }
    writer = gguf.GGUFWriter(target, source.fields["general.architecture"].contents())
    for name, item in source.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        value: Any = item.contents()
        if name == "general.file_type":
            value = int(file_types[wanted])
        kind = item.types[0]
        sub_type = item.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, value, kind, sub_type=sub_type)
    return writer


def _add(writer: gguf.GGUFWriter, name: str, values: Array, kind: QuantType) -> None:
    data = np.ascontiguousarray(values, dtype=np.float32)
    writer.add_tensor(name, gguf.quantize(data, kind), raw_dtype=kind)


def _permute(rows: Array, heads: int) -> Array:
    """HF's rotary halves to llama.cpp's interleaved pairs, along the output dimension."""
    size = rows.shape[0] // heads // 2
    return rows.reshape(heads, 2, size, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)

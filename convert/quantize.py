"""Quant types: rows of numbers through ggml's own code, whole files through llama.cpp's quantizer.

Block layouts and the choice of a type per tensor are llama.cpp's
(https://github.com/ggml-org/llama.cpp). It falls back to another type where a row is not a
multiple of a block: what a file really holds is what `models.gguf_file.weights` reads from it.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as QuantType
from numpy.typing import NDArray

from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.quant_types import QUANT_TYPES

Array = NDArray[np.float32]
ROW_TYPES = {
    "F32": QuantType.F32,
    "F16": QuantType.F16,
    "BF16": QuantType.BF16,
    "Q8_0": QuantType.Q8_0,
}
"""Types that are written row by row, without a file in between."""
IMATRIX_TYPES = ("IQ3_XXS", "IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ1_M", "IQ1_S", "Q2_K_S")
QUANTIZER_BUFFER = 256 * 1024**2  # bytes of rows that the quantizer holds at once


def file_type(quant: str) -> int:
    """llama.cpp's number of a quant type. Raises BadInput for a name it does not have."""
    if quant not in QUANT_TYPES:
        raise BadInput(f"--quant {quant}: unknown; choose from {', '.join(QUANT_TYPES)}")
    prefix = "ALL_" if quant == "F32" else "MOSTLY_"
    return int(gguf.LlamaFileType[prefix + quant])


def check_quant(quant: str, imatrix: Mapping[str, Array] | None) -> None:
    """Raises BadInput for a type that is unknown, or that lacks its importance matrix."""
    file_type(quant)
    if quant in IMATRIX_TYPES and not imatrix:
        raise BadInput(f"--quant {quant}: needs --imatrix FILE; make one: convert imatrix")


def tensor_type(shape: tuple[int, ...], quant: str) -> QuantType:
    """What a tensor is stored as in a directly written file; vectors stay float32."""
    kind = ROW_TYPES[quant]
    if len(shape) < 2:
        return QuantType.F32
    block = gguf.GGML_QUANT_SIZES[kind][0]
    return kind if shape[-1] % block == 0 else QuantType.F16


def quantize_rows(values: Array, kind: QuantType) -> NDArray[np.uint8]:
    """Rows (n, width) as the bytes of ``kind``, computed by ggml outside Python's lock."""
    values = np.ascontiguousarray(values, dtype=np.float32)
    if kind == QuantType.F32:
        return values.reshape(-1).view(np.uint8)
    width = values.shape[-1]
    block, size = gguf.GGML_QUANT_SIZES[kind]
    target = np.empty(values.size // block * size, np.uint8)
    source, out = values.ctypes.data, target.ctypes.data
    if kind == QuantType.F16:
        _ggml().ggml_cpu_fp32_to_fp16(source, out, values.size)
    elif kind == QuantType.BF16:
        _ggml().ggml_cpu_fp32_to_bf16(source, out, values.size)
    else:
        rows = values.size // width
        _ggml().ggml_quantize_chunk(int(kind), source, out, 0, rows, width, None)
    return target


@cache
def _ggml() -> Any:
    """ggml's functions, found through libllama, which links to it."""
    from llama_cpp import llama_cpp

    library = llama_cpp._lib
    pointer, count = ctypes.c_void_p, ctypes.c_int64
    for name in ("ggml_cpu_fp32_to_fp16", "ggml_cpu_fp32_to_bf16"):
        getattr(library, name).argtypes = [pointer, pointer, count]
        getattr(library, name).restype = None
    chunk = library.ggml_quantize_chunk
    chunk.argtypes = [ctypes.c_int, pointer, pointer, count, count, count, pointer]
    chunk.restype = ctypes.c_size_t
    return library


def quantize_file(
    source: Path,
    target: Path,
    quant: str,
    imatrix: Mapping[str, Array] | None = None,
    threads: int | None = None,
) -> None:
    """Quantize a whole GGUF file with llama.cpp's quantizer, its mix of types included.

    ``imatrix`` gives per tensor the mean square of its inputs, (in,). Raises BadInput when
    llama.cpp refuses, when a type needs an importance matrix, or when the file is no model.
    """
    import llama_cpp

    from charprobe_lite.convert.forward import silence
    from charprobe_lite.models.gguf_header import weight_summary

    check_quant(quant, imatrix)
    weight_summary(source)  # llama.cpp would abort the process on a file that is none
    silence()
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = file_type(quant)
    parameters.nthread = threads or os.cpu_count() or 1
    parameters.allow_requantize = True
    parameters.max_buf_size = QUANTIZER_BUFFER
    entries = [
        (name.encode(), np.ascontiguousarray(values, np.float32))
        for name, values in (imatrix or {}).items()
    ]
    if entries:
        parameters.imatrix = _imatrix_entries(entries)
    if llama_cpp.llama_model_quantize(bytes(source), bytes(target), parameters) != 0:
        raise BadInput(f"{source}: llama.cpp cannot quantize it to {quant}; is the disk full?")


def _imatrix_entries(entries: list[tuple[bytes, Array]]) -> Any:
    import llama_cpp

    kind = llama_cpp.llama_cpp.llama_model_imatrix_data
    array = (kind * (len(entries) + 1))()  # a last entry without a name ends the list
    for slot, (name, values) in zip(array, entries, strict=False):
        slot.name = name
        slot.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        slot.size = values.size
    return ctypes.cast(array, ctypes.POINTER(kind))

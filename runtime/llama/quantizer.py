"""Quantization: rows of numbers through ggml's code, files through llama.cpp's quantizer."""

import ctypes
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType, LlamaFileType
from numpy.typing import NDArray

from charprobe_lite.runtime.llama import log
from charprobe_lite.runtime.llama.binding import llama
from charprobe_lite.runtime.llama.ggml import ggml
from charprobe_lite.runtime.native_trial import try_model

BUFFER = 256 * 1024**2  # bytes of rows that the quantizer holds at once


def quantize_rows(
    values: NDArray[np.float32], tensor_type: GGMLQuantizationType
) -> NDArray[np.uint8]:
    """Rows, (n, width), as the bytes of F32, F16, BF16 or a type that needs no importance matrix.

    Computed by ggml outside Python's lock; ``width`` must be a multiple of the type's block.
    """
    values = np.ascontiguousarray(values, dtype=np.float32)
    if tensor_type == GGMLQuantizationType.F32:
        return values.reshape(-1).view(np.uint8)
    width = values.shape[-1]
    block, size = gguf.GGML_QUANT_SIZES[tensor_type]
    target = np.empty(values.size // block * size, np.uint8)
    source, out = values.ctypes.data, target.ctypes.data
    if tensor_type == GGMLQuantizationType.F16:
        ggml().ggml_cpu_fp32_to_fp16(source, out, values.size)
    elif tensor_type == GGMLQuantizationType.BF16:
        ggml().ggml_cpu_fp32_to_bf16(source, out, values.size)
    else:
        rows = values.size // width
        ggml().ggml_quantize_chunk(int(tensor_type), source, out, 0, rows, width, None)
    return target


def quantize_gguf(
    source: Path,
    target: Path,
    file_type: LlamaFileType,
    imatrix: Mapping[str, NDArray[np.float32]] | None = None,
    threads: int | None = None,
) -> None:
    """Quantize a GGUF model file with llama.cpp's quantizer, its mix of types included.

    ``imatrix`` has per tensor the mean square of its inputs, (in,). Raises BadInput with
    llama.cpp's reason.
    """
    parameters = llama.llama_model_quantize_default_params()
    parameters.ftype = int(file_type)
    parameters.nthread = threads or os.cpu_count() or 1
    parameters.allow_requantize = True
    parameters.max_buf_size = BUFFER
    if imatrix:
        arrays = {name: np.ascontiguousarray(v, np.float32) for name, v in imatrix.items()}
        parameters.imatrix = _imatrix_entries(arrays)
    try_model(source)
    log.capture()
    if llama.llama_model_quantize(os.fsencode(source), os.fsencode(target), parameters) != 0:
        message = f"{source}: llama.cpp cannot quantize it into {target.parent}"
        raise log.refusal(message, "is the disk full?")


def _imatrix_entries(arrays: Mapping[str, NDArray[np.float32]]) -> Any:
    """llama.cpp's list of the arrays, which must outlive it; an entry without a name ends it."""
    kind = llama.llama_cpp.llama_model_imatrix_data
    entries = (kind * (len(arrays) + 1))()
    for entry, (name, values) in zip(entries, arrays.items(), strict=False):
        entry.name, entry.size = name.encode(), values.size
        entry.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    return ctypes.cast(entries, ctypes.POINTER(kind))

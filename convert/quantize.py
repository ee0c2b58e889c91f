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


def quantize_file(
    source: Path,
    target: Path,
    quant: str,
    imatrix: Mapping[str, Array] | None = None,
    threads: int | None = None,
) -> None:
    """Quantize a GGUF file with llama.cpp's quantizer, its mix of types included.

    ``imatrix`` has per tensor the mean square of its inputs, (in,). Raises BadInput when llama.cpp
    cannot quantize it, when a type needs an importance matrix, or when the file is no model.
    """
    check_quant(quant, imatrix)
    weight_summary(source)  # llama.cpp would abort the process on a file that is no model
    quantize_gguf(source, target, file_type(quant), imatrix, threads)

"""ggml's functions for which llama-cpp-python has no binding, with their types."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

SIZE, POINTER, TEXT = ctypes.c_size_t, ctypes.c_void_p, ctypes.c_char_p
SIZES = ctypes.POINTER(SIZE)
INT, COUNT = ctypes.c_int, ctypes.c_int64
SIGNATURES: dict[str, tuple[list[Any], Any]] = {  # arguments, result
    "ggml_backend_dev_count": ([], SIZE),
    "ggml_backend_dev_get": ([SIZE], POINTER),
    "ggml_backend_dev_name": ([POINTER], TEXT),
    "ggml_backend_dev_description": ([POINTER], TEXT),
    "ggml_backend_dev_type": ([POINTER], INT),
    "ggml_backend_dev_memory": ([POINTER, SIZES, SIZES], None),
    "ggml_backend_dev_backend_reg": ([POINTER], POINTER),
    "ggml_backend_reg_name": ([POINTER], TEXT),
    "ggml_backend_tensor_get": ([POINTER, POINTER, SIZE, SIZE], None),
    "ggml_op_name": ([INT], TEXT),
    "ggml_cpu_fp32_to_fp16": ([POINTER, POINTER, COUNT], None),
    "ggml_cpu_fp32_to_bf16": ([POINTER, POINTER, COUNT], None),
    "ggml_quantize_chunk": ([INT, POINTER, POINTER, COUNT, COUNT, COUNT, POINTER], SIZE),
}


@cache
def ggml() -> Any:
    """ggml's library; the libraries that it links to are found through it."""
    from llama_cpp._ggml import libggml

    for name, (arguments, result) in SIGNATURES.items():
        function = getattr(libggml, name)
        function.argtypes, function.restype = arguments, result
    return libggml

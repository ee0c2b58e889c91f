"""Tensors as llama.cpp computes them: the inputs of its matrix products."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import llama_cpp as llama
import numpy as np
from numpy.typing import NDArray

from charprobe_lite.runtime.llama.ggml import ggml

MAX_DIMS, MAX_SOURCES, MAX_PARAMETERS, MAX_NAME = 4, 10, 16, 64  # ggml.h
F32 = 0  # ggml_type


class _Tensor(ctypes.Structure):
    """struct ggml_tensor, as far as it is read here (ggml.h)."""


_Tensor._fields_ = [
    ("type", ctypes.c_int),
    ("buffer", ctypes.c_void_p),
    ("ne", ctypes.c_int64 * MAX_DIMS),
    ("nb", ctypes.c_size_t * MAX_DIMS),
    ("op", ctypes.c_int),
    ("op_params", ctypes.c_int32 * MAX_PARAMETERS),
    ("flags", ctypes.c_int32),
    ("src", ctypes.POINTER(_Tensor) * MAX_SOURCES),
    ("view_src", ctypes.c_void_p),
    ("view_offs", ctypes.c_size_t),
    ("data", ctypes.c_void_p),
    ("name", ctypes.c_char * MAX_NAME),
]


def matrix_inputs_callback(
    select: Callable[[str], bool], receive: Callable[[str, NDArray[np.float32]], None]
) -> Any:
    """A context's ``tensor_callback`` that hands over the inputs of products with weight matrices.

    ``receive`` gets the name of each matrix that ``select`` accepts, and its float32 inputs,
    (tokens, width), every time llama.cpp has computed a product with it.
    """

    def on_tensor(address: int, ask: bool, _user_data: object) -> bool:
        """llama.cpp first asks whether it shall show the tensor, then shows it computed."""
        tensor = ctypes.cast(address, ctypes.POINTER(_Tensor)).contents
        if ggml().ggml_op_name(tensor.op) != b"MUL_MAT":
            return not ask
        name = tensor.src[0].contents.name.decode("utf-8", "replace")
        if not select(name) or tensor.src[1].contents.type != F32:
            return not ask
        if not ask:
            receive(name, _values(tensor.src[1]))
        return True

    return llama.llama_cpp.ggml_backend_sched_eval_callback(on_tensor)


def _values(pointer: Any) -> NDArray[np.float32]:
    """A float32 tensor's numbers, (rows, width)."""
    width, *rows = pointer.contents.ne
    values = np.empty((np.prod(rows), width), np.float32)
    address = ctypes.cast(pointer, ctypes.c_void_p)
    ggml().ggml_backend_tensor_get(address, values.ctypes.data, 0, values.nbytes)
    return values

"""Importance matrices: how strongly each input of a weight matrix is used on a text.

The mean of the squared inputs, as llama.cpp's imatrix tool defines it, kept in its GGUF format
(``TENSOR.in_sum2`` (in,), ``TENSOR.counts`` (1,)), so that either tool reads the other's file.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from charprobe_lite.convert.forward import Forward
from charprobe_lite.models.atomic import new_file
from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.gguf_header import read_gguf

Array = NDArray[np.float32]
CHUNK = 512  # tokens
SUM, COUNT = ".in_sum2", ".counts"
MAX_DIMS, MAX_SOURCES, MAX_PARAMETERS, MAX_NAME = 4, 10, 16, 64  # ggml.h
F32 = 0


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


class _Collector:
    """Sums the squared inputs of every layer's matrices while llama.cpp computes."""

    def __init__(self) -> None:
        from llama_cpp import llama_cpp

        self.sums: dict[str, NDArray[np.float64]] = {}
        self.counts: dict[str, int] = {}
        self._library: Any = llama_cpp._lib
        self._library.ggml_op_name.restype = ctypes.c_char_p
        self._library.ggml_op_name.argtypes = [ctypes.c_int]
        self._library.ggml_backend_tensor_get.restype = None
        self._library.ggml_backend_tensor_get.argtypes = [
            ctypes.c_void_p,
            ctypes.c_void_p,
            ctypes.c_size_t,
            ctypes.c_size_t,
        ]
        self.callback = llama_cpp.ggml_backend_sched_eval_callback(self._on_tensor)

    def _on_tensor(self, address: int, ask: bool, _user_data: Any) -> bool:
        """llama.cpp asks first whether the tensor is wanted, then shows it computed."""
        tensor = ctypes.cast(address, ctypes.POINTER(_Tensor)).contents
        if self._library.ggml_op_name(tensor.op) != b"MUL_MAT":
            return not ask
        name = tensor.src[0].contents.name.decode("utf-8", "replace")
        inputs = tensor.src[1].contents
        if not name.startswith("blk.") or not name.endswith(".weight") or inputs.type != F32:
            return not ask
        if not ask:
            self._add(name, tensor.src[1], inputs)
        return True

    def _add(self, name: str, pointer: Any, inputs: _Tensor) -> None:
        width, rows = inputs.ne[0], inputs.ne[1] * inputs.ne[2] * inputs.ne[3]
        values = np.empty((rows, width), np.float32)
        self._library.ggml_backend_tensor_get(
            ctypes.cast(pointer, ctypes.c_void_p), values.ctypes.data, 0, values.nbytes
        )
        total = np.square(values, dtype=np.float64).sum(axis=0)
        self.sums[name] = self.sums.get(name, 0) + total
        self.counts[name] = self.counts.get(name, 0) + rows


def make_imatrix(
    model: Path,
    text: str,
    target: Path,
    chunks: int = 100,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Run a text through a GGUF model and write the importance matrix; the number of chunks.

    Raises BadInput when the text is shorter than a chunk of 512 tokens.
    """
    collector = _Collector()
    with closing(Forward(model, length=CHUNK, on_tensor=collector.callback)) as forward:
        ids = forward.tokenize(text)
        total = min(chunks, len(ids) // CHUNK)
        if not total:
            raise BadInput(f"--text: {len(ids)} tokens; give at least {CHUNK}")
        for number in range(total):
            forward.run(ids[number * CHUNK : (number + 1) * CHUNK])
            if progress:
                progress(number + 1, total)
    if not collector.sums:
        raise BadInput(f"{model}: llama.cpp showed no inputs of its matrices; use a CPU build")
    with new_file(target) as part:
        _write(collector, total, part)
    return total


def _write(collector: _Collector, chunks: int, target: Path) -> None:
    writer = gguf.GGUFWriter(target, "")
    writer.add_type("imatrix")
    writer.add_uint32("imatrix.chunk_count", chunks)
    writer.add_uint32("imatrix.chunk_size", CHUNK)
    writer.add_array("imatrix.datasets", ["calibration text"])
    for name, total in sorted(collector.sums.items()):
        writer.add_tensor(name + SUM, total.astype(np.float32)[None])
        writer.add_tensor(name + COUNT, np.array([[collector.counts[name]]], np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def read_imatrix(path: Path) -> dict[str, Array]:
    """The mean squared inputs per tensor, (in,), of an importance matrix in GGUF.

    Raises BadInput when the file is none.
    """
    tensors = {tensor.name: tensor for tensor in read_gguf(path).tensors}
    found = {}
    for name, tensor in tensors.items():
        if not name.endswith(SUM):
            continue
        own = name.removesuffix(SUM)
        count = tensors.get(own + COUNT)
        if count is None or count.data.size != 1:  # mixtures of experts have several
            raise BadInput(f"{path}: tensor {own}{COUNT}: missing or not one number")
        values = np.asarray(tensor.data, np.float32).reshape(-1)
        if not np.isfinite(values).all() or not float(count.data.reshape(-1)[0]) > 0:
            raise BadInput(f"{path}: tensor {name}: not finite numbers; make it again")
        found[own] = values / np.float32(count.data.reshape(-1)[0])
    if not found:
        raise BadInput(f"{path}: holds no importance matrix; make one: convert imatrix")
    return found

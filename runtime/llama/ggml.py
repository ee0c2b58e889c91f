"""The parts of ggml that llama-cpp-python does not bind: devices, tensors under computation."""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charprobe_lite.runtime.llama import log
from charprobe_lite.runtime.llama.binding import Tensor, libggml, llama

GPU_TYPES = {1, 2}  # ggml_backend_dev_type: GPU, integrated GPU
F32 = 0  # ggml_type
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
    """ggml's library, through which the libraries that it links to are found."""
    for name, (arguments, result) in SIGNATURES.items():
        function = getattr(libggml, name)
        function.argtypes, function.restype = arguments, result
    return libggml


@dataclass(frozen=True)
class Device:
    """What llama.cpp can run on: ``family`` is CPU, CUDA, Metal, ...; memory in bytes."""

    name: str
    family: str
    description: str
    is_gpu: bool
    free: int
    total: int

    def __str__(self) -> str:
        memory = f", {self.free / 1e9:.1f} of {self.total / 1e9:.1f} GB free" if self.total else ""
        return f"{self.name} ({self.description}{memory})"


def devices() -> list[Device]:
    """ggml's list of devices (ggml-backend.h)."""
    log.capture()
    return [_device(ggml().ggml_backend_dev_get(n)) for n in range(ggml().ggml_backend_dev_count())]


def system_info() -> str:
    """llama.cpp's own line about its build."""
    return str(llama.llama_print_system_info().decode("utf-8", "replace").strip())


@cache
def has_amx() -> bool:
    """Whether llama.cpp was built with Intel's AMX.

    Such a build by GCC 12 ends the process in an illegal instruction at the first product of a
    batch with quantized weights: the compiler drops the shapes of the tiles that ggml writes before
    `_tile_loadconfig`, whose operand it takes for eight bytes.
    """
    return "AMX_INT8 = 1" in system_info()


def gpu_offload() -> bool:
    """Whether llama.cpp was built for a GPU."""
    return bool(llama.llama_supports_gpu_offload())


def _device(handle: int) -> Device:
    library, free, total = ggml(), ctypes.c_size_t(), ctypes.c_size_t()
    library.ggml_backend_dev_memory(handle, ctypes.byref(free), ctypes.byref(total))
    registry = library.ggml_backend_dev_backend_reg(handle)
    return Device(
        name=library.ggml_backend_dev_name(handle).decode("utf-8", "replace"),
        family=library.ggml_backend_reg_name(registry).decode("utf-8", "replace"),
        description=library.ggml_backend_dev_description(handle).decode("utf-8", "replace"),
        is_gpu=library.ggml_backend_dev_type(handle) in GPU_TYPES,
        free=free.value,
        total=total.value,
    )


def matrix_inputs_callback(
    select: Callable[[str], object], receive: Callable[[str, NDArray[np.float32]], None]
) -> Any:
    """A context's ``tensor_callback`` that hands over the inputs of products with weight matrices.

    ``receive`` gets the name of each matrix that ``select`` accepts, and its float32 inputs,
    (tokens, width), every time llama.cpp has computed a product with it.
    """

    def on_tensor(address: int, ask: bool, _user_data: object) -> bool:
        """llama.cpp first asks whether it shall show the tensor, then shows it computed."""
        tensor = ctypes.cast(address, ctypes.POINTER(Tensor)).contents
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

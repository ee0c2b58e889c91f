"""Which device llama.cpp and ONNX Runtime use, and what they were built with."""

from __future__ import annotations

import ctypes
import mmap
import platform
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from charprobe_lite.models.errors import BadInput

GPU = {1, 2}  # ggml_backend_dev_type: GPU, integrated GPU
CPU_PROVIDER = "CPUExecutionProvider"
FAMILIES = {"cuda": {"CUDA"}, "metal": {"Metal", "MTL"}}  # ggml's names of what it was built with
PROVIDERS = {"cuda": "CUDAExecutionProvider", "metal": "CoreMLExecutionProvider"}
# pip keeps what it built: without --no-cache-dir it would put the CPU build back
REBUILD = (
    'CMAKE_ARGS="-DGGML_{}=on" pip install --force-reinstall --no-deps --no-cache-dir '
    "--no-binary llama-cpp-python llama-cpp-python=={}"
)
ONNX_GPU = "pip uninstall -y onnxruntime && pip install onnxruntime-gpu"


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
    """What the installed llama.cpp can run on: ggml's own list (ggml-backend.h)."""
    from charprobe_lite.runtime.native_log import native_log

    native_log.capture()
    ggml = _ggml()
    return [
        _device(ggml, ggml.ggml_backend_dev_get(n)) for n in range(ggml.ggml_backend_dev_count())
    ]


def gpu_layers(device: str, layers: int | None = None) -> int:
    """Layers that go to the GPU for ``--device``: -1 (all) or ``layers`` on a GPU, 0 on the CPU.

    Raises BadInput when the installed llama-cpp-python has no such device, with the command
    that builds one that has, and for ``layers`` where no GPU is used.
    """
    gpus = [each for each in devices() if each.is_gpu] if device != "cpu" else []
    if device in FAMILIES and not any(each.family in FAMILIES[device] for each in gpus):
        raise BadInput(
            f"--device {device}: the installed llama-cpp-python was not built for it or sees no "
            f"such GPU; {_rebuild(device)}"
        )
    if layers is not None and not gpus:
        raise BadInput(f"--gpu-layers {layers}: no GPU is used; see charprobe-lite doctor")
    return (-1 if layers is None else layers) if gpus else 0


def onnx_providers(device: str, model: Path) -> list[str]:
    """ONNX Runtime's execution providers for a device and a model, the best first.

    The CPU always stands last: what a provider cannot start or run falls back to it.
    """
    import onnxruntime

    wanted = PROVIDERS if device == "auto" else {device} & PROVIDERS.keys()
    found = [PROVIDERS[name] for name in wanted]
    found = [name for name in found if name in onnxruntime.get_available_providers()]
    return [CPU_PROVIDER] if found and is_int8(model) else [*found, CPU_PROVIDER]


def is_int8(model: Path) -> bool:
    """Whether an ONNX model is quantized dynamically; only the CPU has kernels for its operators.

    Read from the names of the operators in the file; False where it cannot be read.
    """
    try:
        with model.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return data.find(b"DynamicQuantizeLinear") >= 0
    except (OSError, ValueError):  # loading it will say what is wrong
        return False


def device_report() -> dict[str, Any]:
    """What is used here, what llama.cpp and ONNX Runtime were built with, how to build for GPUs."""
    import llama_cpp as llama
    import onnxruntime

    from charprobe_lite.runtime.engine import physical_cores

    seen = devices()
    gpus = [str(each) for each in seen if each.is_gpu]
    facts: dict[str, Any] = {
        "device": ", ".join(gpus) or "cpu",
        "threads": physical_cores(),
        "llama.cpp devices": [str(each) for each in seen],
        "llama.cpp": llama.llama_print_system_info().decode("utf-8", "replace").strip(),
        "llama.cpp GPU offload": bool(llama.llama_supports_gpu_offload()),
        "ONNX Runtime providers": list(onnxruntime.get_available_providers()),
    }
    mac = platform.system() == "Darwin"
    if not gpus:
        facts["llama.cpp for a GPU"] = _rebuild("metal" if mac else "cuda")
    if not mac and PROVIDERS["cuda"] not in facts["ONNX Runtime providers"]:
        facts["ONNX Runtime for a GPU"] = ONNX_GPU
    return facts


def _rebuild(device: str) -> str:
    import llama_cpp as llama

    return REBUILD.format(device.upper(), llama.__version__)


def _device(ggml: Any, handle: int) -> Device:
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    ggml.ggml_backend_dev_memory(handle, ctypes.byref(free), ctypes.byref(total))
    registry = ggml.ggml_backend_dev_backend_reg(handle)
    return Device(
        name=ggml.ggml_backend_dev_name(handle).decode("utf-8", "replace"),
        family=ggml.ggml_backend_reg_name(registry).decode("utf-8", "replace"),
        description=ggml.ggml_backend_dev_description(handle).decode("utf-8", "replace"),
        is_gpu=ggml.ggml_backend_dev_type(handle) in GPU,
        free=free.value,
        total=total.value,
    )


@cache
def _ggml() -> Any:
    """ggml's library with the types of what llama-cpp-python has no binding for."""
    from llama_cpp._ggml import libggml

    size, handle, text = ctypes.c_size_t, ctypes.c_void_p, ctypes.c_char_p
    signatures: dict[str, tuple[list[Any], Any]] = {
        "ggml_backend_dev_count": ([], size),
        "ggml_backend_dev_get": ([size], handle),
        "ggml_backend_dev_name": ([handle], text),
        "ggml_backend_dev_description": ([handle], text),
        "ggml_backend_dev_type": ([handle], ctypes.c_int),
        "ggml_backend_dev_memory": ([handle, ctypes.POINTER(size), ctypes.POINTER(size)], None),
        "ggml_backend_dev_backend_reg": ([handle], handle),
        "ggml_backend_reg_name": ([handle], text),
    }
    for name, (arguments, result) in signatures.items():
        function = getattr(libggml, name)
        function.argtypes, function.restype = arguments, result
    return libggml

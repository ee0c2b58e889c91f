"""What the installed llama.cpp can run on, and how it was built."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import llama_cpp as llama

from charprobe_lite.runtime.llama import log
from charprobe_lite.runtime.llama.ggml import ggml

GPU_TYPES = {1, 2}  # ggml_backend_dev_type: GPU, integrated GPU


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


@dataclass(frozen=True)
class BuildInfo:
    """llama-cpp-python's version, llama.cpp's own line about its build, and GPU support."""

    version: str
    system: str
    gpu_offload: bool


def devices() -> list[Device]:
    """ggml's list of devices (ggml-backend.h)."""
    log.capture()
    return [_device(ggml().ggml_backend_dev_get(n)) for n in range(ggml().ggml_backend_dev_count())]


def build_info() -> BuildInfo:
    """How the installed llama.cpp was built."""
    return BuildInfo(
        version=llama.__version__,
        system=llama.llama_print_system_info().decode("utf-8", "replace").strip(),
        gpu_offload=bool(llama.llama_supports_gpu_offload()),
    )


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

"""Which device llama.cpp and ONNX Runtime use, and how they are built."""

import mmap
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.files import regular_file

CPU_PROVIDER = "CPUExecutionProvider"
FAMILIES = {"cuda": {"CUDA"}, "metal": {"Metal", "MTL"}}  # ggml's names of its builds
PROVIDERS = {"cuda": "CUDAExecutionProvider", "metal": "CoreMLExecutionProvider"}
# pip caches its builds: without --no-cache-dir it would put the CPU build back
REBUILD = (
    'CMAKE_ARGS="-DGGML_{}=on" pip install --force-reinstall --no-deps --no-cache-dir '
    "--no-binary llama-cpp-python llama-cpp-python=={}"
)
ONNX_GPU = "pip uninstall -y onnxruntime && pip install onnxruntime-gpu"


def gpu_layers(device: str, layers: int | None = None) -> int:
    """Layers that go to the GPU for ``--device``: -1 (all) or ``layers`` on a GPU, 0 on the CPU.

    Raises BadInput when the installed llama-cpp-python has no such device, with the command
    that builds one with it, and for ``layers`` where no GPU is used.
    """
    from charprobe_lite.runtime.llama import devices  # the classifier needs no llama.cpp

    families = [gpu.family for gpu in devices() if gpu.is_gpu] if device != "cpu" else []
    if device in FAMILIES and not FAMILIES[device] & set(families):
        raise BadInput(
            f"--device {device}: the installed llama-cpp-python was not built for it or sees no "
            f"such GPU; {_rebuild(device)}"
        )
    if layers is not None and not families:
        raise BadInput(f"--gpu-layers {layers}: no GPU is used; see charprobe-lite doctor")
    return (-1 if layers is None else layers) if families else 0


def onnx_providers(device: str, model: Path) -> list[str]:
    """ONNX Runtime's execution providers for a device and a model, the best first.

    The CPU is always last: graphs that another provider cannot run fall back to it.
    """
    import onnxruntime

    names = PROVIDERS if device == "auto" else {device} & PROVIDERS.keys()
    available = onnxruntime.get_available_providers()
    gpus = [PROVIDERS[name] for name in names if PROVIDERS[name] in available]
    return [CPU_PROVIDER] if gpus and is_int8(model) else [*gpus, CPU_PROVIDER]


def is_int8(model: Path) -> bool:
    """Whether an ONNX model is quantized dynamically; only the CPU has kernels for its operators.

    Read from the names of the operators in the file; False where it cannot be read.
    """
    try:
        with (
            regular_file(model).open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
        ):
            return data.find(b"DynamicQuantizeLinear") >= 0
    except (OSError, ValueError, BadInput):  # loading it will give the reason
        return False


def llama_report() -> dict[str, Any]:
    """The device and threads in use, how llama.cpp is built, and how to build it for a GPU where
    it is not. Raises BadInput where it cannot be loaded."""
    from charprobe_lite.runtime.llama import (
        devices,
        gpu_offload,
        has_amx,
        physical_cores,
        system_info,
    )

    machine = devices()
    gpus = [str(device) for device in machine if device.is_gpu]
    report: dict[str, Any] = {
        "device": ", ".join(gpus) or "cpu",
        "threads": physical_cores(),
        "llama.cpp devices": [str(device) for device in machine],
        "llama.cpp": system_info(),
        "llama.cpp GPU offload": gpu_offload(),
    }
    if has_amx():
        report["llama.cpp AMX"] = "not used: builds of GCC 12 end in an illegal instruction with it"
    if not gpus:
        report["llama.cpp for a GPU"] = _rebuild("metal" if _is_mac() else "cuda")
    return report


def onnx_report() -> dict[str, Any]:
    """ONNX Runtime's execution providers, and how to install it for a GPU where there is none.

    Raises ImportError where it is not installed.
    """
    import onnxruntime

    providers = list(onnxruntime.get_available_providers())
    report: dict[str, Any] = {"ONNX Runtime providers": providers}
    if not _is_mac() and PROVIDERS["cuda"] not in providers:
        report["ONNX Runtime for a GPU"] = ONNX_GPU
    return report


def _is_mac() -> bool:
    return platform.system() == "Darwin"


def _rebuild(device: str) -> str:
    return REBUILD.format(device.upper(), version("llama-cpp-python"))

"""Which device llama.cpp and ONNX Runtime use, and what they were built with."""

from __future__ import annotations

import platform
from typing import Any

from charprobe_lite.models.errors import BadInput

REBUILD = 'CMAKE_ARGS="-DGGML_{}=on" pip install --force-reinstall --no-deps --no-binary :all:'


def gpu_layers(device: str) -> int:
    """Layers that go to the GPU for ``--device``: -1 (all) or 0.

    Raises BadInput when the installed llama-cpp-python has no such device, with the command
    that builds one that has.
    """
    import llama_cpp as llama

    if device == "cpu":
        return 0
    offload = bool(llama.llama_supports_gpu_offload())
    if device == "auto":
        return -1 if offload else 0
    if not offload or (device == "metal") != (platform.system() == "Darwin"):
        raise BadInput(
            f"--device {device}: the installed llama-cpp-python was not built for it; "
            f"{REBUILD.format(device.upper())} llama-cpp-python=={llama.__version__}"
        )
    return -1


def backends() -> dict[str, Any]:
    """What llama.cpp and ONNX Runtime were built with, and the cores that will be used."""
    import llama_cpp as llama
    import onnxruntime

    from charprobe_lite.runtime.engine import physical_cores
    from charprobe_lite.runtime.native_log import native_log

    native_log.capture()
    return {
        "device": "gpu" if gpu_layers("auto") else "cpu",
        "threads": physical_cores(),
        "llama.cpp": llama.llama_print_system_info().decode("utf-8", "replace").strip(),
        "llama.cpp GPU offload": bool(llama.llama_supports_gpu_offload()),
        "ONNX Runtime providers": list(onnxruntime.get_available_providers()),
    }

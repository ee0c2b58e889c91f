"""llama.cpp, bound here and nowhere else: models, contexts, quantization, devices, its log."""

from charprobe_lite.runtime.llama.context import Context, Segment, physical_cores
from charprobe_lite.runtime.llama.devices import Device, build_info, devices
from charprobe_lite.runtime.llama.model import Model
from charprobe_lite.runtime.llama.quantizer import quantize_gguf, quantize_rows
from charprobe_lite.runtime.llama.tensors import matrix_inputs_callback

__all__ = [
    "Context",
    "Device",
    "Model",
    "Segment",
    "build_info",
    "devices",
    "matrix_inputs_callback",
    "physical_cores",
    "quantize_gguf",
    "quantize_rows",
]

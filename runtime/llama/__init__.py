"""llama.cpp, bound here and nowhere else: models, contexts, devices, its log; and `quantizer`.

The quantizer is imported by its own name: it loads gguf, which running a model does not need.
"""

from charprobe_lite.runtime.llama.ggml import devices as devices
from charprobe_lite.runtime.llama.ggml import gpu_offload as gpu_offload
from charprobe_lite.runtime.llama.ggml import has_amx as has_amx
from charprobe_lite.runtime.llama.ggml import matrix_inputs_callback as matrix_inputs_callback
from charprobe_lite.runtime.llama.ggml import system_info as system_info
from charprobe_lite.runtime.llama.model import Context as Context
from charprobe_lite.runtime.llama.model import FileVersion as FileVersion
from charprobe_lite.runtime.llama.model import Model as Model
from charprobe_lite.runtime.llama.model import Segment as Segment
from charprobe_lite.runtime.llama.model import file_version as file_version
from charprobe_lite.runtime.llama.model import physical_cores as physical_cores

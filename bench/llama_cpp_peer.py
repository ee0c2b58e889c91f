"""llama-cpp-python's own `Llama` and server as peers, on Xeons with AMX too.

A build with AMX by GCC 12 ends the process in an illegal instruction
(`charprobe_lite.runtime.llama.has_amx`); where the build has AMX, models load here without
repacked weights, as our engine loads them.

`python bench/llama_cpp_peer.py ARGUMENTS` is `python -m llama_cpp.server ARGUMENTS`.
"""

from __future__ import annotations

import runpy
from functools import cache
from typing import Any


@cache
def spare_amx() -> None:
    """Let every `llama_cpp.Llama` of this process load its model without AMX; nothing elsewhere."""
    from llama_cpp import llama_cpp as library

    if b"AMX_INT8 = 1" not in library.llama_print_system_info():
        return
    defaults = library.llama_model_default_params

    def without_repacking() -> Any:
        params = defaults()
        params.use_extra_bufts = False
        return params

    library.llama_model_default_params = without_repacking


if __name__ == "__main__":
    spare_amx()
    runpy.run_module("llama_cpp.server", run_name="__main__")

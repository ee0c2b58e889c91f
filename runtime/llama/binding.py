"""llama-cpp-python, loaded and checked: what another release or library changed is one line.

The values are those of llama.h and ggml.h: a field that moved reads as something else.
"""

import ctypes
import os
from typing import Any

from charprobe_lite.models.errors import BadInput, first_problem

os.environ.setdefault("GGML_NO_BACKTRACE", "1")  # a debugger in the terminal explains nothing
if "OMP_WAIT_POLICY" not in os.environ:
    # threads that wait for each other for long keep another process's from their cores
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

try:
    import llama_cpp as llama
    from llama_cpp._ggml import libggml
except (ImportError, OSError, RuntimeError, AttributeError) as error:
    place = os.environ.get("LLAMA_CPP_LIB_PATH")
    fix = f"fix or unset LLAMA_CPP_LIB_PATH ({place})" if place else "install it again"
    raise BadInput(f"llama-cpp-python cannot be loaded: {first_problem(error)}; {fix}") from None

__all__ = ["Tensor", "check", "libggml", "llama"]

MAX_DIMS, MAX_SOURCES, MAX_PARAMETERS, MAX_NAME = 4, 10, 16, 64  # ggml.h
OBJECT_SIZE, TENSOR_END = 32, 16  # ggml_object; extra and padding, which are not read here
MODEL = {"n_gpu_layers": None, "split_mode": 1, "vocab_only": False, "use_extra_bufts": True}
CONTEXT = {
    "n_ctx": 512,
    "n_batch": 2048,
    "n_ubatch": 512,
    "n_seq_max": 1,
    "kv_unified": False,
    "n_threads": None,
    "n_threads_batch": None,
    "flash_attn_type": -1,
    "cb_eval": None,
    "type_k": 1,
    "type_v": 1,
    "offload_kqv": True,
    "op_offload": True,
    "swa_full": True,
}
QUANTIZER = {
    "nthread": 0,
    "ftype": None,
    "allow_requantize": False,
    "quantize_output_tensor": True,
    "only_copy": False,
    "imatrix": None,
    "max_buf_size": None,
}
"""Fields that are used here or lie between them, with their defaults where these say something."""


class Tensor(ctypes.Structure):
    """struct ggml_tensor, as far as it is read here."""


Tensor._fields_ = [
    ("type", ctypes.c_int),
    ("buffer", ctypes.c_void_p),
    ("ne", ctypes.c_int64 * MAX_DIMS),
    ("nb", ctypes.c_size_t * MAX_DIMS),
    ("op", ctypes.c_int),
    ("op_params", ctypes.c_int32 * MAX_PARAMETERS),
    ("flags", ctypes.c_int32),
    ("src", ctypes.POINTER(Tensor) * MAX_SOURCES),
    ("view_src", ctypes.c_void_p),
    ("view_offs", ctypes.c_size_t),
    ("data", ctypes.c_void_p),
    ("name", ctypes.c_char * MAX_NAME),
]


def check() -> None:
    """Raises BadInput where a struct is not what this package was written for."""
    libggml.ggml_tensor_overhead.restype = ctypes.c_size_t
    if libggml.ggml_tensor_overhead() != OBJECT_SIZE + ctypes.sizeof(Tensor) + TENSOR_END:
        raise _changed("struct ggml_tensor")
    for kind, expected in (("model", MODEL), ("context", CONTEXT), ("model_quantize", QUANTIZER)):
        defaults = getattr(llama, f"llama_{kind}_default_params")()
        for field, value in expected.items():
            found = _value(defaults, field)
            if value is not None and found != value:
                raise _changed(f"llama_{kind}_params.{field} is {found}, not {value}")


def _value(struct: Any, field: str) -> Any:
    if field not in (name for name, *_ in struct._fields_):
        raise _changed(f"{type(struct).__name__} has no {field}")
    return getattr(struct, field)


def _changed(what: str) -> BadInput:
    own = os.environ.get("LLAMA_CPP_LIB_PATH")
    fix = f"unset LLAMA_CPP_LIB_PATH ({own}), or " if own else ""
    return BadInput(
        f"llama-cpp-python {llama.__version__}: its llama.cpp is another than this package knows "
        f"({what}); {fix}pip install 'llama-cpp-python==0.3.36'"
    )


try:
    check()
except AttributeError as error:
    raise _changed(str(error)) from None

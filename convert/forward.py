"""One text through a GGUF model: token ids and the logits of every position, for comparisons."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import joblib
import numpy as np
from numpy.typing import NDArray

from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.gguf_header import weight_summary


class Forward:
    """A GGUF model in llama.cpp on the CPU, with an F32 KV cache and exact attention."""

    def __init__(
        self,
        path: Path,
        adapters: Sequence[Path] = (),
        *,
        length: int = 512,
        on_tensor: Any = None,
    ) -> None:
        import llama_cpp

        weight_summary(path)  # llama.cpp's own refusal says less
        self.path, self._api = path, llama_cpp
        silence()
        parameters = llama_cpp.llama_model_default_params()
        parameters.n_gpu_layers = 0
        parameters.use_extra_bufts = False  # repacked weights are a second copy in memory
        self._model = llama_cpp.llama_model_load_from_file(bytes(path), parameters)
        if not self._model:
            raise BadInput(f"{path}: llama.cpp cannot load it")
        self._context = self._new_context(length, on_tensor)
        self._apply(adapters)

    def _new_context(self, length: int, on_tensor: Any) -> Any:
        parameters = self._api.llama_context_default_params()
        parameters.n_ctx = parameters.n_batch = parameters.n_ubatch = length
        parameters.n_threads = parameters.n_threads_batch = joblib.cpu_count(
            only_physical_cores=True
        )
        parameters.type_k = parameters.type_v = self._api.GGML_TYPE_F32
        # a GPU build would compute large batches there, in other precision
        parameters.op_offload = parameters.offload_kqv = False
        parameters.flash_attn_type = self._api.LLAMA_FLASH_ATTN_TYPE_DISABLED
        if on_tensor is not None:
            parameters.cb_eval = on_tensor
        context = self._api.llama_init_from_model(self._model, parameters)
        if not context:
            raise BadInput(f"{self.path}: llama.cpp cannot make a context for it")
        return context

    def _apply(self, adapters: Sequence[Path]) -> None:
        loaded = []
        for path in adapters:
            adapter = self._api.llama_adapter_lora_init(self._model, bytes(path))
            if not adapter:
                raise BadInput(f"{path}: not an adapter of {self.path}")
            loaded.append(adapter)
        if loaded:
            array = (self._api.llama_adapter_lora_p_ctypes * len(loaded))(*loaded)
            scales = (ctypes.c_float * len(loaded))(*[1.0] * len(loaded))
            self._api.llama_set_adapters_lora(self._context, array, len(loaded), scales)

    def tokenize(self, text: str) -> list[int]:
        """Token ids, special tokens in the text parsed, none added."""
        raw = text.encode()
        vocabulary = self._api.llama_model_get_vocab(self._model)
        room = len(raw) + 8
        ids = (ctypes.c_int32 * room)()
        count = self._api.llama_tokenize(vocabulary, raw, len(raw), ids, room, False, True)
        return list(ids[:count])

    def logits(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """Logits of every position, (len(ids), vocabulary), of a text of its own."""
        self.run(ids)
        vocabulary = self._api.llama_model_get_vocab(self._model)
        size = self._api.llama_vocab_n_tokens(vocabulary)
        found = np.ctypeslib.as_array(
            self._api.llama_get_logits(self._context), shape=(len(ids), size)
        )
        return found.copy()

    def run(self, ids: Sequence[int]) -> None:
        """Compute a text of its own; BadInput when llama.cpp cannot."""
        self._api.llama_memory_clear(self._api.llama_get_memory(self._context), True)
        batch = self._api.llama_batch_init(len(ids), 0, 1)
        try:
            batch.n_tokens = len(ids)
            for position, token in enumerate(ids):
                batch.token[position], batch.pos[position] = token, position
                batch.n_seq_id[position], batch.seq_id[position][0] = 1, 0
                batch.logits[position] = 1
            if self._api.llama_decode(self._context, batch) != 0:
                raise BadInput(f"{self.path}: llama.cpp cannot decode with it")
        finally:
            self._api.llama_batch_free(batch)

    def close(self) -> None:
        """Free the model."""
        self._api.llama_free(self._context)
        self._api.llama_model_free(self._model)


def silence() -> None:
    """Drop llama.cpp's log: what is wrong is said in one line."""
    import llama_cpp

    llama_cpp.llama_log_set(_SILENT, ctypes.c_void_p(0))


_SILENT: Any = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(
    lambda level, text, data: None
)

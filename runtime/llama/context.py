"""A llama.cpp context: KV sequences of a model, and the logits of what is decoded into them."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llama_cpp as llama
import numpy as np
from numpy.typing import NDArray

from charprobe_lite.models.errors import BadInput
from charprobe_lite.runtime.llama import log
from charprobe_lite.runtime.llama.model import Model

BATCH = 1024  # most tokens of one decode: long prompts are cut, decoding goes on meanwhile
MICROBATCH = 512  # most tokens that llama.cpp computes at once


@dataclass(frozen=True)
class Segment:
    """Consecutive tokens of one KV sequence, (n,), the first of them at ``position``.

    ``outputs``, (n,), says for each token whether the logits that follow it are computed.
    """

    sequence: int
    position: int
    tokens: Sequence[int]
    outputs: Sequence[bool]


class Context:
    """``sequences`` KV sequences of ``length`` tokens each of one model; a context manager.

    K and V are F16, and flash attention is llama.cpp's choice. An ``exact`` context keeps them as
    F32, computes attention without shortcuts, on the CPU alone, and takes a text of ``length`` in
    one decode. ``threads`` defaults to the physical cores. ``tensor_callback`` is called as llama.cpp
    computes (see ``matrix_inputs_callback``). Raises BadInput when llama.cpp cannot make it.
    """

    def __init__(
        self,
        model: Model,
        *,
        length: int,
        sequences: int = 1,
        threads: int | None = None,
        exact: bool = False,
        tensor_callback: Any = None,
    ) -> None:
        self.model, self.batch_size = model, length if exact else BATCH
        params = llama.llama_context_default_params()
        params.n_ctx, params.n_seq_max = sequences * length, sequences
        params.n_batch = self.batch_size
        params.n_ubatch = length if exact else MICROBATCH
        # a cache of its own per sequence: in a unified one every token attends to all sequences'
        # cells, masked, which cost a quarter of the rollouts per minute with 8 sequences
        params.kv_unified = False
        params.n_threads = params.n_threads_batch = threads or physical_cores()
        if exact:
            params.type_k = params.type_v = llama.GGML_TYPE_F32
            params.flash_attn_type = llama.LLAMA_FLASH_ATTN_TYPE_DISABLED
            # a GPU build would compute large batches there, in other precision
            params.op_offload = params.offload_kqv = False
        if tensor_callback is not None:
            params.cb_eval = self._callback = tensor_callback  # llama.cpp keeps no reference
        log.capture()
        self.handle = llama.llama_init_from_model(model.handle, params)
        if not self.handle:
            raise BadInput(
                f"{model.path}: no context of {sequences} x {length} tokens: {log.last_line()}; "
                "lower --parallel"
            )
        self._memory = llama.llama_get_memory(self.handle)
        self._batch = llama.llama_batch_init(self.batch_size, 0, 1)

    def close(self) -> None:
        """Free the context; the model stays."""
        if self.handle:
            llama.llama_batch_free(self._batch)
            llama.llama_free(self.handle)
            self.handle = None

    def __enter__(self) -> Context:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def use_adapters(self, paths: Sequence[Path]) -> None:
        """Compute with these GGUF LoRAs on the model, or with none.

        Raises BadInput when a file is no LoRA of the model.
        """
        adapters = [self.model.adapter(path) for path in paths]
        handles = (llama.llama_adapter_lora_p_ctypes * len(adapters))(*adapters)
        scales = (ctypes.c_float * len(adapters))(*[1.0] * len(adapters))
        log.capture()
        if llama.llama_set_adapters_lora(self.handle, handles, len(adapters), scales) != 0:
            names = ", ".join(map(str, paths))
            raise BadInput(f"{names}: llama.cpp does not apply it: {log.last_line()}")

    def clear(self) -> None:
        """Empty every sequence."""
        llama.llama_memory_clear(self._memory, True)

    def copy(self, source: int, target: int) -> None:
        """Make the sequence ``target`` what ``source`` is."""
        llama.llama_memory_seq_cp(self._memory, source, target, -1, -1)

    def cut(self, sequence: int, length: int) -> int:
        """Keep the first ``length`` tokens of a sequence, or none where it cannot be cut.

        Returns how many tokens it keeps.
        """
        if llama.llama_memory_seq_rm(self._memory, sequence, length, -1):
            return length
        # recurrent and sliding-window caches cannot always be cut: compute them anew
        llama.llama_memory_seq_rm(self._memory, sequence, -1, -1)
        return 0

    def decode(self, segments: Sequence[Segment]) -> NDArray[np.float32]:
        """Evaluate at most ``batch_size`` tokens; the logits, (number of outputs, vocabulary).

        The logits are llama.cpp's memory, which the next decode overwrites. Raises BadInput when
        llama.cpp cannot evaluate the batch, and ValueError for too many tokens.
        """
        batch, row = self._batch, 0
        if sum(len(segment.tokens) for segment in segments) > self.batch_size:
            raise ValueError(f"more than {self.batch_size} tokens in one decode")
        for segment in segments:
            pairs = zip(segment.tokens, segment.outputs, strict=True)
            for position, (token, output) in enumerate(pairs, segment.position):
                batch.token[row], batch.pos[row], batch.logits[row] = token, position, output
                batch.n_seq_id[row], batch.seq_id[row][0] = 1, segment.sequence
                row += 1
        batch.n_tokens = row
        log.capture()
        if llama.llama_decode(self.handle, batch) != 0:
            raise BadInput(
                f"{self.model.path}: llama.cpp cannot evaluate a batch: {log.last_line()}; "
                "lower --parallel or --context"
            )
        shape = (sum(sum(segment.outputs) for segment in segments), self.model.vocabulary_size)
        if not shape[0]:
            return np.zeros(shape, np.float32)
        return np.ctypeslib.as_array(llama.llama_get_logits(self.handle), shape)


def physical_cores() -> int:
    """Physical cores that this process may use, at least one."""
    from joblib.externals.loky import cpu_count

    return int(cpu_count(only_physical_cores=True))

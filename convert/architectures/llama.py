"""Llama 2 to 3.3, and SmolLM2, which has the same code.

llama.cpp rotates pairs of neighbouring rows where transformers rotates halves, so that the rows
of q and k change places.
"""

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from charprobe_lite.convert.architectures.architecture import Architecture
from charprobe_lite.convert.architectures.config import TextConfig
from charprobe_lite.models.errors import BadInput

LLAMA3_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class Llama(Architecture):
    """transformers' LlamaForCausalLM; defaults of transformers 4.57, LlamaConfig."""

    name = "llama"
    classes = ("LlamaForCausalLM",)
    defaults: ClassVar[Mapping[str, Any]] = {
        "max_position_embeddings": 2048,
        "tie_word_embeddings": False,
    }
    rope_kinds = ("default", "linear", "llama3", "yarn")
    pre_tokenizers: ClassVar[Mapping[tuple[str, ...], str]] = {
        (LLAMA3_WORDS,): "llama-bpe",
        ("digits",): "smollm",
        ("digits", "gpt2"): "smollm",
    }

    @classmethod
    def constants(cls, text: Mapping[str, Any]) -> Mapping[str, Any]:
        """SiLU; biases are computed where there are any."""
        return {"hidden_act": "silu"}

    @classmethod
    def tensors(cls, config: TextConfig) -> Mapping[str, NDArray[np.float32]]:
        """Llama 3.1's frequency factors, (head_dim / 2,): divisors of the rotary frequencies.

        Source: the Llama 3.1 release. Long wavelengths are slowed down by ``factor``, short ones
        kept, those between are blended.
        """
        rope, size = config.rope, config.head_dim
        if rope.kind != "llama3":
            return {}
        exponents = np.arange(0, size, 2, dtype=np.float64) / size
        wavelengths = 2 * math.pi * config.rope_theta**exponents
        low, high = rope.low_freq_factor, rope.high_freq_factor
        blend = (rope.original_max_position_embeddings / wavelengths - low) / (high - low)
        blend = np.clip(blend, 0, 1)
        factors = 1 / ((1 - blend) / rope.factor + blend)
        return {"rope_freqs.weight": factors.astype(np.float32)}

    def row_order(self, tensor: str, rows: int) -> NDArray[np.int64] | None:
        """Rotary halves to interleaved pairs, in the rows of q and k and in their biases."""
        kind = tensor.split(".")[2] if tensor.startswith("blk.") else ""
        heads = {"attn_q": self.heads, "attn_k": self.kv_heads}.get(kind)
        if heads is None:
            return None
        if rows % (2 * heads):
            raise BadInput(f"tensor {tensor}: {rows} rows are not {heads} heads of pairs")
        half = rows // heads // 2
        return np.arange(rows).reshape(heads, 2, half).swapaxes(1, 2).reshape(rows)

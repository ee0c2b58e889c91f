"""What llama.cpp calls the parts of a Hugging Face checkpoint, per architecture.

Names are the gguf package's own map. What llama.cpp changes in the numbers is written here: the
rows of q and k are permuted for llama (rotary halves to interleaved pairs), Gemma's norm weights
are stored plus one.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from charprobe_lite.convert.config import TextConfig
from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.gguf_header import read_header

ENUM = {
    "llama": gguf.MODEL_ARCH.LLAMA,
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "gemma3": gguf.MODEL_ARCH.GEMMA3,
}
VISION = ("vision_tower.", "multi_modal_projector.", "vision_model.", "embed_vision.")


@dataclass(frozen=True)
class Architecture:
    """``name`` as llama.cpp says it, and what of the sizes the conversion depends on."""

    name: str
    layers: int
    heads: int
    kv_heads: int
    tied: bool

    def tensor_name(self, module: str) -> str | None:
        """GGUF name of a module's tensor (``...q_proj.weight``); None for a vision part.

        Takes every published spelling: ``model.layers.0``, ``language_model.model.layers.0``,
        ``model.language_model.layers.0``. Raises KeyError for a name that is none of the model's.
        """
        known = text_name(module)
        if known is None:
            return None
        found = _names(self.name, self.layers).get_name(known, try_suffixes=(".weight", ".bias"))
        if found is None:
            raise KeyError(module)
        return str(found)

    def row_order(self, tensor: str, rows: int) -> NDArray[np.int64] | None:
        """For each row of a GGUF tensor its row in the checkpoint; None when they are the same.

        Raises BadInput for rows that are not the heads'.
        """
        kind = tensor.split(".")[2] if tensor.startswith("blk.") else ""
        heads = {"attn_q": self.heads, "attn_k": self.kv_heads}.get(kind)
        if self.name != "llama" or heads is None:
            return None
        if rows % (2 * heads):
            raise BadInput(f"tensor {tensor}: {rows} rows are not {heads} heads of pairs")
        half = rows // heads // 2
        return np.arange(rows).reshape(heads, 2, half).swapaxes(1, 2).reshape(rows)

    def shift(self, tensor: str) -> float:
        """What is added to a tensor's numbers: Gemma computes with 1 + weight in its norms."""
        return 1.0 if self.name == "gemma3" and tensor.endswith("norm.weight") else 0.0


@lru_cache(maxsize=8)
def _names(architecture: str, layers: int) -> gguf.TensorNameMap:
    return gguf.get_tensor_name_map(ENUM[architecture], layers)


def text_name(name: str) -> str | None:
    """A tensor's name in the language model alone, ``model.layers.0...`` or ``lm_head...``;
    None for a part of the vision tower."""
    if name.removeprefix("model.").startswith(VISION):
        return None
    plain = re.sub(r"^(model\.|language_model\.)+", "", name)
    return plain if plain.startswith("lm_head.") else f"model.{plain}"


def architecture_of(config: TextConfig) -> Architecture:
    """The architecture of a checkpoint's configuration."""
    return Architecture(
        name=config.architecture,
        layers=config.num_hidden_layers,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        tied=config.tie_word_embeddings,
    )


def architecture_of_gguf(path: Path) -> Architecture:
    """The architecture of a GGUF model. Raises BadInput for one that is not converted here."""
    header = read_header(path)
    fields = header.fields
    name = fields.get("general.architecture")
    if not isinstance(name, str) or name not in ENUM:
        raise BadInput(
            f"{path}: field general.architecture: {name} is not converted; "
            f"one of {', '.join(ENUM)} is"
        )
    heads: Any = fields.get(f"{name}.attention.head_count")
    layers: Any = fields.get(f"{name}.block_count")
    kv_heads: Any = fields.get(f"{name}.attention.head_count_kv", heads)
    if not all(isinstance(n, int) and 0 < n <= 10_000 for n in (heads, layers, kv_heads)):
        raise BadInput(f"{path}: field {name}.attention.head_count: missing; not a whole model")
    tied = all(tensor.name != "output.weight" for tensor in header.tensors)
    return Architecture(name, layers, heads, kv_heads, tied)


def write_hyperparameters(writer: gguf.GGUFWriter, config: TextConfig) -> None:
    """The sizes and constants that llama.cpp builds the graph from."""
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_rope_dimension_count(config.head_dim)
    if config.architecture == "gemma3" and config.sliding_window:
        writer.add_sliding_window(config.sliding_window)
    if config.rope.kind == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(config.rope.factor)


def rope_factors(config: TextConfig) -> NDArray[np.float32] | None:
    """Llama 3.1's frequency factors, (head_dim / 2,): what each rotary frequency is divided by.

    Source: the Llama 3.1 release (long wavelengths are slowed down by ``factor``, short ones
    kept, those between are blended); llama.cpp reads them as the tensor ``rope_freqs.weight``.
    """
    rope, size = config.rope, config.head_dim
    if rope.kind != "llama3":
        return None
    exponents = np.arange(0, size, 2, dtype=np.float64) / size
    wavelengths = 2 * math.pi * config.rope_theta**exponents
    low, high = rope.low_freq_factor, rope.high_freq_factor
    blend = (rope.original_max_position_embeddings / wavelengths - low) / (high - low)
    blend = np.clip(blend, 0, 1)
    return (1 / ((1 - blend) / rope.factor + blend)).astype(np.float32)

"""What llama.cpp calls the parts of a Hugging Face checkpoint, per architecture.

Names are the gguf package's own map. What llama.cpp changes in the numbers is written here: the
rows of q and k are permuted for llama (rotary halves to interleaved pairs), Gemma's norm weights
are stored plus one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from charprobe_lite.models.errors import BadInput

ARCHITECTURES = {
    "LlamaForCausalLM": "llama",
    "Qwen2ForCausalLM": "qwen2",
    "Gemma3ForCausalLM": "gemma3",
    "Gemma3ForConditionalGeneration": "gemma3",
}
ENUM = {
    "llama": gguf.MODEL_ARCH.LLAMA,
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "gemma3": gguf.MODEL_ARCH.GEMMA3,
}
GEMMA_WINDOW_PATTERN = 6  # every sixth layer attends to everything: fixed in llama.cpp
GEMMA_LOCAL_ROPE_BASE = 10_000.0  # fixed in llama.cpp for the layers with a window
ACTIVATIONS = {"gemma3": ("hidden_activation", "gelu_pytorch_tanh")}
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
        names = gguf.get_tensor_name_map(ENUM[self.name], self.layers)
        found = names.get_name(known, try_suffixes=(".weight", ".bias"))
        if found is None:
            raise KeyError(module)
        return str(found)

    def row_order(self, tensor: str, rows: int) -> NDArray[np.int64] | None:
        """For each row of a GGUF tensor its row in the checkpoint; None when they are the same."""
        kind = tensor.split(".")[2] if tensor.startswith("blk.") else ""
        heads = {"attn_q": self.heads, "attn_k": self.kv_heads}.get(kind)
        if self.name != "llama" or heads is None:
            return None
        half = rows // heads // 2
        return np.arange(rows).reshape(heads, 2, half).swapaxes(1, 2).reshape(rows)

    def shift(self, tensor: str) -> float:
        """What is added to a tensor's numbers: Gemma computes with 1 + weight in its norms."""
        return 1.0 if self.name == "gemma3" and tensor.endswith("norm.weight") else 0.0


def text_name(name: str) -> str | None:
    """A tensor's name in the language model alone, ``model.layers.0...`` or ``lm_head...``;
    None for a part of the vision tower."""
    if name.removeprefix("model.").startswith(VISION):
        return None
    plain = re.sub(r"^(model\.|language_model\.)+", "", name)
    return plain if plain.startswith("lm_head.") else f"model.{plain}"


def architecture_of(config: dict[str, Any], text: dict[str, Any], file: str) -> Architecture:
    """The architecture of a checkpoint's configuration.

    Raises BadInput naming the field for an architecture or a variant of one that llama.cpp
    would compute differently.
    """
    named = (config.get("architectures") or [None])[0]
    if named not in ARCHITECTURES:
        raise BadInput(
            f"{file}: field architectures: {named} is not converted; "
            f"one of {', '.join(ARCHITECTURES)} is"
        )
    name = ARCHITECTURES[named]
    number = _numbers(text, file)
    _check_activation(name, text, file)
    if name == "gemma3":
        _check_gemma(text, file)
    if name == "llama" and (text.get("attention_bias") or text.get("mlp_bias")):
        raise BadInput(f"{file}: field attention_bias: llama with biases is not converted")
    if name == "qwen2" and text.get("use_sliding_window"):
        raise BadInput(f"{file}: field use_sliding_window: llama.cpp's qwen2 has no window")
    heads, tied = number("num_attention_heads"), name == "gemma3"  # where the file is silent
    return Architecture(
        name=name,
        layers=number("num_hidden_layers"),
        heads=heads,
        kv_heads=number("num_key_value_heads", heads),
        tied=bool(text.get("tie_word_embeddings", config.get("tie_word_embeddings", tied))),
    )


def architecture_of_gguf(reader: gguf.GGUFReader, file: str) -> Architecture:
    """The architecture of a GGUF model. Raises BadInput for one that is not converted here."""

    def field(key: str, default: Any = None) -> Any:
        found = reader.fields.get(key)
        return found.contents() if found else default

    name = field("general.architecture")
    if name not in ENUM:
        raise BadInput(
            f"{file}: field general.architecture: {name} is not converted; "
            f"one of {', '.join(ENUM)} is"
        )
    heads = field(f"{name}.attention.head_count")
    layers = field(f"{name}.block_count")
    kv_heads = field(f"{name}.attention.head_count_kv", heads)
    if not all(isinstance(n, int) and n > 0 for n in (heads, layers, kv_heads)):
        raise BadInput(f"{file}: field {name}.attention.head_count: missing; not a whole model")
    tied = all(tensor.name != "output.weight" for tensor in reader.tensors)
    return Architecture(name, layers, heads, kv_heads, tied)


def write_hyperparameters(
    writer: gguf.GGUFWriter, architecture: Architecture, text: dict[str, Any], file: str
) -> None:
    """The sizes and constants that llama.cpp builds the graph from."""
    number = _numbers(text, file)
    width = number("hidden_size")
    head = number("head_dim", width // architecture.heads)
    writer.add_context_length(number("max_position_embeddings"))
    writer.add_embedding_length(width)
    writer.add_block_count(architecture.layers)
    writer.add_feed_forward_length(number("intermediate_size"))
    writer.add_head_count(architecture.heads)
    writer.add_head_count_kv(architecture.kv_heads)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_layer_norm_rms_eps(float(text.get("rms_norm_eps", 1e-6)))
    writer.add_rope_freq_base(float(_rope(text).get("rope_theta", 10_000.0)))
    writer.add_rope_dimension_count(head)
    if architecture.name == "gemma3":
        writer.add_sliding_window(number("sliding_window", 4096))
    kind, factor = _scaling(text, file)
    if kind == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(factor)


def rope_factors(text: dict[str, Any], file: str) -> NDArray[np.float32] | None:
    """Llama 3.1's frequency factors, (head_dim / 2,): what each rotary frequency is divided by.

    Source: the Llama 3.1 release (long wavelengths are slowed down by ``factor``, short ones
    kept, those between are blended); llama.cpp reads them as the tensor ``rope_freqs.weight``.
    """
    if _scaling(text, file)[0] != "llama3":
        return None
    rope = _rope(text)
    number = _numbers(text, file)
    head = number("head_dim", number("hidden_size") // number("num_attention_heads"))
    factor, low, high, old = (
        float(rope[key])
        for key in (
            "factor",
            "low_freq_factor",
            "high_freq_factor",
            "original_max_position_embeddings",
        )
    )
    base = float(rope.get("rope_theta", 10_000.0))
    wavelengths = 2 * math.pi * base ** (np.arange(0, head, 2, dtype=np.float64) / head)
    blend = np.clip((old / wavelengths - low) / (high - low), 0, 1)
    return (1 / ((1 - blend) / factor + blend)).astype(np.float32)


def _rope(text: dict[str, Any]) -> dict[str, Any]:
    """rope_theta and rope_scaling in one, as older and newer configurations spell them."""
    nested = text.get("rope_scaling") or text.get("rope_parameters") or {}
    theta = {"rope_theta": text["rope_theta"]} if "rope_theta" in text else {}
    return {**theta, **nested}


def _scaling(text: dict[str, Any], file: str) -> tuple[str, float]:
    rope = _rope(text)
    kind = str(rope.get("rope_type", rope.get("type", "default")))
    if kind not in ("default", "linear", "llama3"):
        raise BadInput(f"{file}: field rope_scaling: {kind} is not converted")
    try:
        if kind == "llama3":
            for key in ("low_freq_factor", "high_freq_factor", "original_max_position_embeddings"):
                float(rope[key])
        return kind, float(rope.get("factor", 1.0) if kind == "default" else rope["factor"])
    except (KeyError, TypeError, ValueError) as error:
        raise BadInput(f"{file}: field rope_scaling: {error} is not a number") from None


def _check_activation(name: str, text: dict[str, Any], file: str) -> None:
    field, wanted = ACTIVATIONS.get(name, ("hidden_act", "silu"))
    if (found := text.get(field, wanted)) != wanted:
        raise BadInput(f"{file}: field {field}: {found} is not what llama.cpp computes ({wanted})")


def _check_gemma(text: dict[str, Any], file: str) -> None:
    """llama.cpp fixes these for gemma3; a checkpoint that differs would be computed wrongly."""
    layers = text.get("layer_types")
    pattern = text.get("sliding_window_pattern", GEMMA_WINDOW_PATTERN)
    expected = [
        "full_attention" if (n + 1) % GEMMA_WINDOW_PATTERN == 0 else "sliding_attention"
        for n in range(len(layers or []))
    ]
    head = text.get("head_dim", 256)
    checks: dict[str, Callable[[], bool]] = {
        "layer_types": lambda: not layers or list(layers) == expected,
        "sliding_window_pattern": lambda: pattern == GEMMA_WINDOW_PATTERN,
        "rope_local_base_freq": lambda: (
            float(text.get("rope_local_base_freq", GEMMA_LOCAL_ROPE_BASE)) == GEMMA_LOCAL_ROPE_BASE
        ),
        "query_pre_attn_scalar": lambda: text.get("query_pre_attn_scalar", head) == head,
        "final_logit_softcapping": lambda: not text.get("final_logit_softcapping"),
        "attn_logit_softcapping": lambda: not text.get("attn_logit_softcapping"),
    }
    for field, fits in checks.items():
        if not fits():
            raise BadInput(f"{file}: field {field}: {text[field]} is not what llama.cpp computes")


def _numbers(text: dict[str, Any], file: str) -> Callable[..., int]:
    def number(key: str, default: int | None = None) -> int:
        value = text.get(key)
        value = default if value is None else value
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise BadInput(f"{file}: field {key}: {value!r} is not a positive number")
        return value

    return number

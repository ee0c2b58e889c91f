"""Gemma 3: the text models, and the text part of the multimodal ones.

llama.cpp stores the weights of the norms plus one, as the model computes with them.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from charprobe_lite.convert.architectures.architecture import Architecture
from charprobe_lite.convert.architectures.config import TextConfig
from charprobe_lite.models.errors import BadInput

WINDOW_PATTERN = 6  # every sixth layer attends to everything: fixed in llama.cpp
LAYERS_27B = 62  # llama.cpp knows the 27B by it, whose q is scaled by width / heads
LOCAL_ROPE_BASE = 10_000.0  # fixed in llama.cpp for the layers with a window


class Gemma3(Architecture):
    """transformers' Gemma 3; defaults of transformers 4.57, Gemma3TextConfig."""

    name = "gemma3"
    classes = ("Gemma3ForCausalLM", "Gemma3ForConditionalGeneration")
    defaults: ClassVar[Mapping[str, Any]] = {
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "rope_theta": 1e6,
        "max_position_embeddings": 131072,
        "query_pre_attn_scalar": 256,
        "sliding_window": 4096,
        "tie_word_embeddings": True,
    }
    windowed = True
    skipped = ("vision_tower.", "multi_modal_projector.", "vision_model.", "embed_vision.")

    @classmethod
    def constants(cls, text: Mapping[str, Any]) -> Mapping[str, Any]:
        """The pattern of windows, their rotary base, the scale of q, and no soft caps."""
        layers = text.get("layer_types")
        count = len(layers) if isinstance(layers, list) else 0
        return {
            "hidden_activation": "gelu_pytorch_tanh",
            "attention_bias": False,
            "layer_types": [
                "sliding_attention" if layer % WINDOW_PATTERN else "full_attention"
                for layer in range(1, count + 1)
            ],
            "sliding_window_pattern": WINDOW_PATTERN,
            "rope_local_base_freq": LOCAL_ROPE_BASE,
            "query_pre_attn_scalar": query_scale(
                *(text.get("num_hidden_layers"), text.get("hidden_size")),
                *(text.get("num_attention_heads"), text.get("head_dim")),
            ),
            "final_logit_softcapping": None,
            "attn_logit_softcapping": None,
            "use_bidirectional_attention": False,
        }

    @classmethod
    def read_config(cls, config: Mapping[str, Any], class_name: str, file: str) -> TextConfig:
        """As every architecture, and a newer spelling of the windows' rotary base."""
        text = config.get("text_config") or config
        rope = text.get("rope_parameters") if isinstance(text, dict) else None
        local = rope.get("sliding_attention") if isinstance(rope, dict) else None
        base = local.get("rope_theta") if isinstance(local, dict) else None
        if base not in (None, LOCAL_ROPE_BASE):
            raise BadInput(f"{file}: field rope_parameters: {base} is not what llama.cpp computes")
        return super().read_config(config, class_name, file)

    def shift(self, tensor: str) -> float:
        """1 for the weights of every norm."""
        return 1.0 if tensor.endswith("norm.weight") else 0.0


def query_scale(layers: Any, size: Any, heads: Any, head_dim: Any) -> Any:
    """What llama.cpp divides the products of q and k by the square root of.

    The sizes are as a file has them: one that is none is refused elsewhere.
    """
    if layers == LAYERS_27B and isinstance(size, int) and isinstance(heads, int) and heads > 0:
        return size // heads
    return head_dim

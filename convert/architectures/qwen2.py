"""Qwen 2 and 2.5 without a sliding window."""

from collections.abc import Mapping
from typing import Any, ClassVar

from charprobe_lite.convert.architectures.architecture import Architecture
from charprobe_lite.convert.architectures.llama import LLAMA3_WORDS


class Qwen2(Architecture):
    """transformers' Qwen2ForCausalLM; defaults of transformers 4.57, Qwen2Config."""

    name = "qwen2"
    classes = ("Qwen2ForCausalLM",)
    defaults: ClassVar[Mapping[str, Any]] = {
        "num_key_value_heads": 32,
        "max_position_embeddings": 32768,
        "tie_word_embeddings": False,
    }
    rope_kinds = ("default", "linear", "yarn")
    pre_tokenizers: ClassVar[Mapping[tuple[str, ...], str]] = {
        (LLAMA3_WORDS.replace("{1,3}", ""),): "qwen2"  # every digit is a word
    }

    @classmethod
    def constants(cls, text: Mapping[str, Any]) -> Mapping[str, Any]:
        """SiLU, and every layer attends to everything."""
        return {"hidden_act": "silu", "use_sliding_window": False}

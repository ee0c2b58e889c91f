"""A checkpoint's config.json: the sizes and constants of its language model, checked.

Published files leave out what transformers has as its default (gemma-3-4b-it names six fields),
so those defaults stand here. What llama.cpp would compute differently is refused by its field.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from charprobe_lite.models.errors import BadInput, first_problem

ARCHITECTURES = {
    "LlamaForCausalLM": "llama",
    "Qwen2ForCausalLM": "qwen2",
    "Gemma3ForCausalLM": "gemma3",
    "Gemma3ForConditionalGeneration": "gemma3",
}
MODEL_TYPES = ("llama", "qwen2", "gemma3", "gemma3_text")
# transformers 4.57, LlamaConfig, Qwen2Config, Gemma3TextConfig
DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": {"max_position_embeddings": 2048, "tie_word_embeddings": False},
    "qwen2": {
        "num_key_value_heads": 32,
        "max_position_embeddings": 32768,
        "tie_word_embeddings": False,
    },
    "gemma3": {
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "rope_theta": 1e6,
        "max_position_embeddings": 131072,
        "query_pre_attn_scalar": 256,
        "sliding_window": 4096,
        "tie_word_embeddings": True,
    },
}
GEMMA_WINDOW_PATTERN = 6  # every sixth layer attends to everything: fixed in llama.cpp
GEMMA_LOCAL_ROPE_BASE = 10_000.0  # fixed in llama.cpp for the layers with a window
Size = Field(gt=0, le=10_000_000)


class Rope(BaseModel):
    """Rotary scaling: none, linear, or Llama 3.1's."""

    kind: Literal["default", "linear", "llama3"] = "default"
    factor: float = Field(default=1.0, ge=1, le=1e6)
    low_freq_factor: float = Field(default=1.0, gt=0, le=1e6)
    high_freq_factor: float = Field(default=4.0, gt=0, le=1e6)
    original_max_position_embeddings: int = Field(default=8192, gt=0, le=10_000_000)

    @model_validator(mode="after")
    def _apart(self) -> Rope:
        if self.low_freq_factor >= self.high_freq_factor:
            raise PydanticCustomError("apart", "low_freq_factor must be below high_freq_factor")
        return self


class TextConfig(BaseModel):
    """What of a language model's configuration the conversion depends on."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    architecture: Literal["llama", "qwen2", "gemma3"]
    hidden_size: int = Size
    intermediate_size: int = Size
    num_hidden_layers: int = Field(gt=0, le=1000)
    num_attention_heads: int = Field(gt=0, le=10_000)
    num_key_value_heads: int = Field(gt=0, le=10_000)
    head_dim: int = Field(gt=0, le=100_000)
    max_position_embeddings: int = Field(gt=0, le=2**31 - 1)
    rms_norm_eps: float = Field(default=1e-6, gt=0, lt=1)
    rope_theta: float = Field(default=10_000.0, gt=0, le=1e12)
    rope: Rope = Rope()
    sliding_window: int | None = Field(default=None, gt=0, le=2**31 - 1)
    tie_word_embeddings: bool


def read_config(config: dict[str, Any], file: str) -> TextConfig:
    """The language model's part of config.json, with transformers' defaults.

    Raises BadInput naming the field for an architecture or a variant of one that llama.cpp would
    compute differently, and for what is no size.
    """
    named = config.get("architectures")
    named = named[0] if isinstance(named, list) and named else named
    if not isinstance(named, str) or named not in ARCHITECTURES:
        raise BadInput(
            f"{file}: field architectures: {str(named)[:80]} is not converted; "
            f"one of {', '.join(ARCHITECTURES)} is"
        )
    name = ARCHITECTURES[named]
    text = _text_part(config, name)
    _refuse_variants(name, text, file)
    rope = _rope(text, file)
    text.setdefault("num_key_value_heads", text.get("num_attention_heads"))
    if "head_dim" not in text:
        text["head_dim"] = _divided(text.get("hidden_size"), text.get("num_attention_heads"))
    try:
        return TextConfig.model_validate({**text, "architecture": name, **rope})
    except ValidationError as error:
        raise BadInput(f"{file}: {first_problem(error)}") from None


def _text_part(config: dict[str, Any], name: str) -> dict[str, Any]:
    nested = config.get("text_config")
    text = nested if isinstance(nested, dict) else config
    tied = {} if config.get("tie_word_embeddings") is None else config
    shared = {"tie_word_embeddings": tied["tie_word_embeddings"]} if tied else {}
    given = {key: value for key, value in text.items() if value is not None}
    return {**DEFAULTS[name], **shared, **given}


def _divided(size: Any, parts: Any) -> Any:
    return size // parts if isinstance(size, int) and isinstance(parts, int) and parts > 0 else None


def _refuse_variants(name: str, text: dict[str, Any], file: str) -> None:
    """BadInput for what llama.cpp fixes in its code and this configuration has otherwise."""
    layers = text.get("layer_types")
    count = len(layers) if isinstance(layers, list) else 0
    windows = [
        "sliding_attention" if (n + 1) % GEMMA_WINDOW_PATTERN else "full_attention"
        for n in range(count)
    ]
    fixed: dict[str, Any] = {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False}
    if name == "qwen2":
        fixed = {"hidden_act": "silu", "use_sliding_window": False}
    if name == "gemma3":
        fixed = {
            "hidden_activation": "gelu_pytorch_tanh",
            "attention_bias": False,
            "layer_types": windows,
            "sliding_window_pattern": GEMMA_WINDOW_PATTERN,
            "rope_local_base_freq": GEMMA_LOCAL_ROPE_BASE,
            "query_pre_attn_scalar": text.get("head_dim"),
            "final_logit_softcapping": None,
            "attn_logit_softcapping": None,
            "use_bidirectional_attention": False,
        }
    for field, value in fixed.items():
        if field in text and text[field] != value:
            raise BadInput(
                f"{file}: field {field}: {str(text[field])[:80]} is not what llama.cpp computes "
                f"({str(value)[:80]})"
            )


def _rope(text: dict[str, Any], file: str) -> dict[str, Any]:
    """rope_theta and rope_scaling, as older and newer configurations spell them."""
    nested = text.get("rope_scaling") or text.get("rope_parameters") or {}
    if isinstance(nested, dict) and isinstance(nested.get("full_attention"), dict):
        local = nested.get("sliding_attention")
        theta = local.get("rope_theta") if isinstance(local, dict) else None
        if theta not in (None, GEMMA_LOCAL_ROPE_BASE):
            raise BadInput(f"{file}: field rope_parameters: {theta} is not what llama.cpp computes")
        nested = nested["full_attention"]
    if not isinstance(nested, dict):
        raise BadInput(f"{file}: field rope_scaling: not an object")
    kind = nested.get("rope_type", nested.get("type", "default"))
    if kind not in ("default", "linear", "llama3"):
        raise BadInput(f"{file}: field rope_scaling: {str(kind)[:80]} is not converted")
    needed = {"linear": ["factor"], "llama3": list(Rope.model_fields)[1:]}.get(kind, [])
    if missing := [field for field in needed if nested.get(field) is None]:
        raise BadInput(f"{file}: field rope_scaling: {missing[0]} is missing")
    found = {"rope": {**{field: nested[field] for field in needed}, "kind": kind}}
    return found | ({"rope_theta": nested["rope_theta"]} if "rope_theta" in nested else {})

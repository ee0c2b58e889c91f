"""The sizes and constants of a language model in config.json, checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from charprobe_lite.models.errors import BadInput

Size = Field(gt=0, le=10_000_000)


class Rope(BaseModel):
    """Rotary scaling: none, linear, or Llama 3.1's."""

    kind: Literal["default", "linear", "llama3"] = "default"
    factor: float = Field(default=1.0, ge=1, le=1e6)
    low_freq_factor: float = Field(default=1.0, gt=0, le=1e6)
    high_freq_factor: float = Field(default=4.0, gt=0, le=1e6)
    original_max_position_embeddings: int = Field(default=8192, gt=0, le=10_000_000)

    @model_validator(mode="after")
    def _check_order(self) -> Rope:
        if self.low_freq_factor >= self.high_freq_factor:
            raise PydanticCustomError("order", "low_freq_factor must be below high_freq_factor")
        return self


class TextConfig(BaseModel):
    """The part of config.json that the conversion depends on; ``architecture`` is a class name
    of transformers, the other fields have transformers' names."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    architecture: str
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


def text_part(config: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The language model's fields, nested or not, over ``defaults``.

    null means the default, except that a window of null is no window.
    """
    nested = config.get("text_config")
    text = nested if isinstance(nested, dict) else config
    tied = {key: config[key] for key in ("tie_word_embeddings",) if config.get(key) is not None}
    fields = {key: text[key] for key in text if text[key] is not None or key == "sliding_window"}
    text = {**defaults, **tied, **fields}
    size, heads = text.get("hidden_size"), text.get("num_attention_heads")
    text.setdefault("num_key_value_heads", heads)
    if isinstance(size, int) and isinstance(heads, int) and heads > 0:
        text.setdefault("head_dim", size // heads)
    return text


def rope_fields(text: Mapping[str, Any], kinds: tuple[str, ...], file: str) -> dict[str, Any]:
    """``rope`` and ``rope_theta``, as older and newer configurations spell them.

    Raises BadInput for a scaling that is not among ``kinds``, or that lacks a number.
    """
    scaling = text.get("rope_scaling") or text.get("rope_parameters") or {}
    if isinstance(scaling, dict) and isinstance(scaling.get("full_attention"), dict):
        scaling = scaling["full_attention"]  # of the layers without a window
    if not isinstance(scaling, dict):
        raise BadInput(f"{file}: field rope_scaling: not an object")
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind not in kinds:
        raise BadInput(f"{file}: field rope_scaling: {str(kind)[:80]} is not converted")
    needed = {"linear": ["factor"], "llama3": list(Rope.model_fields)[1:]}.get(kind, [])
    if missing := [field for field in needed if scaling.get(field) is None]:
        raise BadInput(f"{file}: field rope_scaling: {missing[0]} is missing")
    rope = {"rope": {**{field: scaling[field] for field in needed}, "kind": kind}}
    return rope | ({"rope_theta": scaling["rope_theta"]} if "rope_theta" in scaling else {})

"""The sizes and constants of a language model in config.json, checked."""

from __future__ import annotations

from collections.abc import Mapping
from math import log
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from charprobe_lite.models.errors import BadInput

NEEDED = {
    "linear": ["factor"],
    "llama3": [
        "factor",
        "low_freq_factor",
        "high_freq_factor",
        "original_max_position_embeddings",
    ],
    "yarn": ["factor"],
}
"""The numbers of each rotary scaling."""
ROPE_FIELDS = {"rope_type", "type", "rope_theta", "original_max_position_embeddings"}
Size = Field(gt=0, le=10_000_000)


class Rope(BaseModel):
    """Rotary scaling: none, linear, Llama 3.1's, or YaRN (Peng et al. 2023, arXiv 2309.00071)."""

    kind: Literal["default", "linear", "llama3", "yarn"] = "default"
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
    fields = {field: scaling[field] for field in NEEDED.get(kind, []) if field in scaling}
    if missing := [field for field in NEEDED.get(kind, []) if fields.get(field) is None]:
        raise BadInput(f"{file}: field rope_scaling: {missing[0]} is missing")
    _refuse_other_fields(text, scaling, kind, file)
    if kind == "yarn":  # with transformers' default
        length = scaling.get("original_max_position_embeddings")
        length = text.get("max_position_embeddings") if length is None else length
        fields["original_max_position_embeddings"] = length
    rope = {"rope": {**fields, "kind": kind}}
    return rope | ({"rope_theta": scaling["rope_theta"]} if "rope_theta" in scaling else {})


def _refuse_other_fields(
    text: Mapping[str, Any], scaling: Mapping[str, Any], kind: str, file: str
) -> None:
    """Raises BadInput for a rotary field that llama.cpp would compute without."""
    factor = scaling.get("factor")
    usual: dict[str, Any] = {
        "partial_rotary_factor": 1,
        "beta_fast": 32,
        "beta_slow": 1,
        "truncate": True,
        "attention_factor": None,
    }
    if kind == "yarn" and isinstance(factor, int | float) and factor >= 1:
        usual["attention_factor"] = 0.1 * log(factor) + 1
    known = ROPE_FIELDS | {"factor"} | set(NEEDED["llama3"] if kind == "default" else NEEDED[kind])
    partial = {key: text[key] for key in ("partial_rotary_factor",) if key in text}
    for field, value in {**partial, **scaling}.items():
        if field in known or value is None or value == usual.get(field):
            continue
        raise BadInput(
            f"{file}: field rope_scaling.{field}: {str(value)[:80]} is not what llama.cpp computes"
        )

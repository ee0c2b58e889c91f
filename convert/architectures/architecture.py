"""What every architecture shares, and what one of them may say otherwise.

Tensor names are the gguf package's own map, the hyperparameters llama.cpp's.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import gguf
import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from charprobe_lite.convert.architectures.config import TextConfig, rope_fields, text_part
from charprobe_lite.models.errors import BadInput, bad_input


@dataclass(frozen=True)
class Architecture:
    """A model's architecture, with the sizes that the conversion depends on.

    A subclass is one architecture: it names llama.cpp's architecture and transformers' classes,
    and overrides what llama.cpp stores or computes differently.
    """

    name: ClassVar[str]
    """llama.cpp's name, ``general.architecture`` in a GGUF file."""
    classes: ClassVar[tuple[str, ...]] = ()
    """The values of ``architectures`` in config.json that are converted."""
    defaults: ClassVar[Mapping[str, Any]] = {}
    """transformers' defaults: published files leave out fields that have them."""
    rope_kinds: ClassVar[tuple[str, ...]] = ("default", "linear")
    """The rotary scalings that llama.cpp computes."""
    windowed: ClassVar[bool] = False
    """Whether ``sliding_window`` is the window of some layers."""
    skipped: ClassVar[tuple[str, ...]] = ()
    """Prefixes of tensors outside the language model."""
    pre_tokenizers: ClassVar[Mapping[tuple[str, ...], str]] = {}
    """llama.cpp's name of each byte-level pre-tokenizer (see vocabulary.py) of its checkpoints."""

    layers: int
    heads: int
    kv_heads: int
    tied: bool

    @classmethod
    def constants(cls, text: Mapping[str, Any]) -> Mapping[str, Any]:
        """Fields of config.json and the only value that llama.cpp computes them with."""
        return {}

    @classmethod
    def tensors(cls, config: TextConfig) -> Mapping[str, NDArray[np.float32]]:
        """Tensors of the GGUF file that are computed from the configuration."""
        return {}

    @classmethod
    def write_hyperparameters(cls, writer: gguf.GGUFWriter, config: TextConfig) -> None:
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
        if cls.windowed and config.sliding_window:
            writer.add_sliding_window(config.sliding_window)
        if config.rope.kind == "linear":
            writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
            writer.add_rope_scaling_factor(config.rope.factor)
        if config.rope.kind == "yarn":
            writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
            writer.add_rope_scaling_factor(config.rope.factor)
            writer.add_rope_scaling_orig_ctx_len(config.rope.original_max_position_embeddings)

    def row_order(self, tensor: str, rows: int) -> NDArray[np.int64] | None:
        """For each row of a GGUF tensor its row in the checkpoint; None keeps the order.

        Raises BadInput for a number of rows that does not fit the heads.
        """
        return None

    def shift(self, tensor: str) -> float:
        """What llama.cpp's file adds to the numbers of a GGUF tensor."""
        return 0.0

    @classmethod
    def read_config(cls, config: Mapping[str, Any], class_name: str, file: str) -> TextConfig:
        """The language model's part of config.json, with transformers' defaults.

        Raises BadInput naming the field for a variant that llama.cpp would compute differently,
        and for a wrong size.
        """
        text = text_part(config, cls.defaults)
        for field, value in cls.constants(text).items():
            if field in text and text[field] != value:
                raise BadInput(
                    f"{file}: field {field}: {str(text[field])[:80]} is not what llama.cpp "
                    f"computes ({str(value)[:80]})"
                )
        rope = rope_fields(text, cls.rope_kinds, file)
        with bad_input(file, ValidationError):
            return TextConfig.model_validate({**text, "architecture": class_name, **rope})

    def text_name(self, name: str) -> str | None:
        """A tensor's name in the language model alone, ``model.layers.0...`` or ``lm_head...``.

        Takes every published spelling: ``model.layers.0``, ``language_model.model.layers.0``,
        ``model.language_model.layers.0``. None for a tensor of another part of the model.
        """
        if self.skipped and name.removeprefix("model.").startswith(self.skipped):
            return None
        plain = re.sub(r"^(model\.|language_model\.)+", "", name)
        return plain if plain.startswith("lm_head.") else f"model.{plain}"

    def tensor_name(self, module: str) -> str | None:
        """GGUF name of a tensor (``...q_proj.weight``); None outside the language model.

        Raises KeyError for a name that the architecture does not have.
        """
        plain = self.text_name(module)
        if plain is None:
            return None
        name = _names(self.name, self.layers).get_name(plain, try_suffixes=(".weight", ".bias"))
        if name is None:
            raise KeyError(module)
        return str(name)


@lru_cache(maxsize=8)
def _names(architecture: str, layers: int) -> gguf.TensorNameMap:
    kinds = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}
    return gguf.get_tensor_name_map(kinds[architecture], layers)

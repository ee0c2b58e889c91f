"""The architectures that are converted: one file each, registered by their classes.

A file of this folder that defines a subclass of `Architecture` is found by itself; `register`
adds one from elsewhere.
"""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

from charprobe_lite.convert.architectures.architecture import Architecture
from charprobe_lite.convert.architectures.config import TextConfig
from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.gguf_header import read_header

_BY_CLASS: dict[str, type[Architecture]] = {}


def register(architecture: type[Architecture]) -> None:
    """Convert checkpoints of the architecture's ``classes`` with it, from now on."""
    _BY_CLASS.update(dict.fromkeys(architecture.classes, architecture))


for _module in iter_modules(__path__, f"{__name__}."):
    for _value in vars(import_module(_module.name)).values():
        if isinstance(_value, type) and issubclass(_value, Architecture):
            register(_value)


def is_built_in(config: Mapping[str, Any]) -> bool:
    """Whether a checkpoint's config.json names an architecture that is registered."""
    return class_name(config) in _BY_CLASS


def class_name(config: Mapping[str, Any]) -> str | None:
    """transformers' class of a checkpoint, as its config.json has it."""
    name = config.get("architectures")
    name = name[0] if isinstance(name, list) and name else name
    return name if isinstance(name, str) else None


def read_config(config: Mapping[str, Any], file: str) -> TextConfig:
    """The language model's part of a checkpoint's config.json.

    Raises BadInput naming the field of ``file`` for an architecture that is not registered, for a
    variant that llama.cpp would compute differently, and for a wrong size.
    """
    name = class_name(config)
    if name is None or name not in _BY_CLASS:
        raise BadInput(
            f"{file}: field architectures: {str(name)[:80]} is not built in; one of "
            f"{', '.join(_BY_CLASS)} is; convert merge --converter takes others"
        )
    return _BY_CLASS[name].read_config(config, name, file)


def architecture_of(config: TextConfig) -> Architecture:
    """The architecture of a checkpoint's configuration."""
    return _BY_CLASS[config.architecture](
        layers=config.num_hidden_layers,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        tied=config.tie_word_embeddings,
    )


def architecture_of_gguf(path: Path) -> Architecture:
    """The architecture of a GGUF model. Raises BadInput for one that is not converted here."""
    header = read_header(path)
    by_name = {kind.name: kind for kind in reversed(_BY_CLASS.values())}
    name = header.fields.get("general.architecture")
    if not isinstance(name, str) or name not in by_name:
        raise BadInput(
            f"{path}: field general.architecture: {name} is not converted; "
            f"one of {', '.join(sorted(by_name))} is"
        )
    heads: Any = header.fields.get(f"{name}.attention.head_count")
    layers: Any = header.fields.get(f"{name}.block_count")
    kv_heads: Any = header.fields.get(f"{name}.attention.head_count_kv", heads)
    if not all(isinstance(n, int) and 0 < n <= 10_000 for n in (heads, layers, kv_heads)):
        raise BadInput(f"{path}: field {name}.attention.head_count: missing; not a complete model")
    tied = all(tensor.name != "output.weight" for tensor in header.tensors)
    return by_name[name](layers, heads, kv_heads, tied)


def pre_tokenizers() -> dict[tuple[str, ...], str]:
    """llama.cpp's name of every pre-tokenizer that a registered architecture has."""
    return {key: name for kind in _BY_CLASS.values() for key, name in kind.pre_tokenizers.items()}

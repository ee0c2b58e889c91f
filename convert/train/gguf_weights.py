"""A GGUF file as a model of transformers that computes what llama.cpp computes.

transformers reads the weights and sizes of a GGUF file, but not its rotary scaling, nor the biases
of a Llama, nor what llama.cpp divides Gemma's q by.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from charprobe_lite.convert.architectures.gemma3 import query_scale
from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.gguf_header import read_header

FREQUENCIES = "rope_freqs.weight"


def load_gguf_model(path: Path, dtype: torch.dtype) -> Any:
    """The model of a GGUF file.

    Raises BadInput for a rotary scaling that is not computed here, OSError and ValueError as
    transformers does.
    """
    header = read_header(path)
    name = str(header.fields.get("general.architecture"))
    fields = {key.removeprefix(f"{name}."): value for key, value in header.fields.items()}
    place: dict[str, Any] = {"gguf_file": path.name, "local_files_only": True}
    config = AutoConfig.from_pretrained(str(path.parent), **place)
    if scaling := rotary_scaling(fields, path):
        rope = config.rope_parameters
        (rope["full_attention"] if name == "gemma3" else rope).update(scaling)
    names = {tensor.name for tensor in header.tensors}
    if name == "llama":
        config.attention_bias = "blk.0.attn_q.bias" in names
        config.mlp_bias = "blk.0.ffn_gate.bias" in names
    if name == "gemma3":
        config.query_pre_attn_scalar = query_scale(
            *(fields["block_count"], fields["embedding_length"]),
            *(fields["attention.head_count"], fields["attention.key_length"]),
        )
    model = AutoModelForCausalLM.from_pretrained(
        str(path.parent), config=config, dtype=dtype, **place
    )
    if FREQUENCIES in names:
        _divide_frequencies(model, path)
    return model


def rotary_scaling(fields: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The scaling in a file's metadata as transformers' ``rope_parameters`` has it; empty without.

    Raises BadInput for another kind than linear and YaRN.
    """
    kind, factor = fields.get("rope.scaling.type", "none"), fields.get("rope.scaling.factor")
    if kind == "none" or factor in (None, 0, 1):
        return {}
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    length = fields.get("rope.scaling.original_context_length", fields.get("context_length"))
    if kind == "yarn":
        return {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": length}
    raise BadInput(
        f"{path}: field rope.scaling.type: {str(kind)[:80]} cannot be trained; give the checkpoint "
        "folder that the file was made from"
    )


def _divide_frequencies(model: Any, path: Path) -> None:
    """Llama 3.1's factors: a tensor of the file, which transformers does not read."""
    tensors = gguf.GGUFReader(path).tensors
    values = next(tensor.data for tensor in tensors if tensor.name == FREQUENCIES)
    factors = torch.from_numpy(values.copy())
    rotary = model.model.rotary_emb
    for name in ("inv_freq", "original_inv_freq"):
        getattr(rotary, name).div_(factors.to(getattr(rotary, name)))

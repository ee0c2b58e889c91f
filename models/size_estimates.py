"""Estimates of a checkpoint's size on disk and in memory, before it exists.

They take the bits per weight from ``quant_types.BITS`` and leave out norms, metadata and tokenizer
(some MB).
"""

from charprobe_lite.models.catalogue_schema import (
    AdapterEntry,
    Base,
    ClassifierEntry,
    Shape,
    Source,
)
from charprobe_lite.models.quant_types import BITS, KV_BYTES, KV_DEFAULT

MICROBATCH = 512  # tokens that llama.cpp computes at once
SUPER_BLOCK = 256  # rows that are no multiple of it cannot hold K-types
# the bits of the type that the quantizer writes instead, by the bits of the requested type
FALLBACK = {6.5625: 8.5, 5.5: 6.0, 4.5: 5.5, 4.25: 4.5, 3.4375: 4.5, 2.625: 4.5}


def file_bytes(base: Base, quant: str) -> int:
    """Bytes of the base's GGUF file as a quant type of ``BITS``.

    Without a shape, all parameters count as layers. A width that is no multiple of 256 counts as
    if every row fell back to the wider type, so it is a bound from above.
    """
    layers, embedding, output = BITS[quant]
    if base.shape is None:
        return round(base.parameters * layers / 8)
    if base.shape.hidden % SUPER_BLOCK and quant not in ("Q8_0", "Q4_0", "IQ4_NL"):
        # a mix like Q4_K_M falls back as its main type does, which its embedding shows
        layers, embedding = FALLBACK.get(embedding, layers), FALLBACK.get(embedding, embedding)
        output = FALLBACK.get(output, output)
    table = base.shape.vocab * base.shape.hidden
    tables = table * output if base.shape.tied else table * (embedding + output)
    return round((layer_parameters(base.shape) * layers + tables) / 8)


def kv_bytes(shape: Shape, context: int, parallel: int, kv_type: str = KV_DEFAULT) -> int:
    """Bytes of the K and V cache for ``parallel`` sequences of ``context`` tokens.

    A bound from above for Gemma 3, most of whose layers keep a window of 1024 tokens only.
    """
    per_token = 2 * shape.layers * shape.kv_heads * shape.head_dim * KV_BYTES[kv_type]
    return round(per_token * context * parallel)


def compute_bytes(shape: Shape, context: int) -> int:
    """Bytes of llama.cpp's compute buffer for 512 tokens at once and sequences of ``context``.

    Its allocator lets the logits take the place of the attention's scores (F32, all heads).
    """
    logits, scores = shape.vocab + shape.hidden, shape.heads * context + 6 * shape.hidden
    return 4 * MICROBATCH * max(logits, scores)


def memory_bytes(base: Base, quant: str, context: int, parallel: int) -> int | None:
    """File and KV cache; the compute buffers (some 100 MB) come on top. None without a shape."""
    if base.shape is None:
        return None
    return file_bytes(base, quant) + kv_bytes(base.shape, context, parallel)


def layer_parameters(shape: Shape) -> int:
    return shape.layers * sum(rows * columns for rows, columns in shape.projections())


def adapter_parameters(shape: Shape, rank: int) -> int:
    """Weights of a LoRA on all seven matrices of every layer."""
    return shape.layers * rank * sum(rows + columns for rows, columns in shape.projections())


def download_bytes(source: Source, base: Base | None = None) -> int | None:
    """Bytes of an entry's safetensors on the hub; None when it is unknown, 0 for local files.

    An adapter (of ``base``) counts as a LoRA on all seven matrices of every layer in two bytes.
    """
    if source.repository is None:
        return 0
    if isinstance(source, Base | ClassifierEntry):
        return source.parameters and round(source.parameters * BITS[source.stored].layers / 8)
    if isinstance(source, AdapterEntry) and source.rank and base and base.shape:
        return 2 * adapter_parameters(base.shape, source.rank)
    return None


def gigabytes(size: int | None) -> str:
    """Bytes as GB with two digits; a question mark for an unknown size."""
    return "?" if size is None else f"{size / 1e9:.2f}"

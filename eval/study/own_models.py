"""A user's own GGUF model as a base of the catalogue: what its header says of its size."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from charprobe_lite.eval.study.spec import StudySpec
from charprobe_lite.models.catalogue import Catalogue, load_catalogue
from charprobe_lite.models.catalogue_schema import Base, Shape
from charprobe_lite.models.gguf_header import Header, read_header

FIELDS = {
    "layers": "block_count",
    "hidden": "embedding_length",
    "heads": "attention.head_count",
    "kv_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "ffn": "feed_forward_length",
}
"""The fields of a GGUF header that a shape is read from, after the architecture's name."""


def study_catalogue(spec: StudySpec) -> Catalogue:
    """The catalogue, in which a study's own model is a base of its own. Raises BadInput."""
    catalogue = load_catalogue()
    if spec.gguf is None:
        return catalogue
    base = own_base(spec.gguf, own_name(spec))
    return replace(catalogue, bases={**catalogue.bases, base.name: base})


def own_name(spec: StudySpec) -> str:
    """What a study calls its own model: ``base``, or the file's name, never a catalogue's."""
    stem = spec.base or (spec.gguf.stem if spec.gguf else "")
    name = re.sub(r"[^a-z0-9._-]+", "-", stem.lower()).strip("-._")[:60] or "own"
    return f"{name}-own" if name in load_catalogue().bases else name


def own_base(path: Path, name: str) -> Base:
    """A GGUF model of any architecture as an entry of the catalogue.

    It has no shape where its header lacks a size. Raises BadInput for what is no GGUF file.
    """
    header = read_header(path)
    architecture = header.fields.get("general.architecture")
    return Base.model_construct(  # not checked: whoever converts it refuses its architecture
        name=name,
        path=path,
        architecture=architecture,
        parameters=sum(tensor.size for tensor in header.tensors) or 1,
        shape=_shape(header, architecture),
    )


def _shape(header: Header, architecture: object) -> Shape | None:
    sizes: dict[str, Any] = {
        size: header.fields.get(f"{architecture}.{field}") for size, field in FIELDS.items()
    }
    tables = {tensor.name: tensor.shape for tensor in header.tensors}
    hidden, heads = sizes["hidden"], sizes["heads"]
    sizes["kv_heads"] = sizes["kv_heads"] or heads
    if sizes["head_dim"] is None and isinstance(hidden, int) and isinstance(heads, int) and heads:
        sizes["head_dim"] = hidden // heads
    vocabulary = tables.get("token_embd.weight", (0, 0))[-1]
    try:
        return Shape(**sizes, vocab=vocabulary, tied="output.weight" not in tables)
    except ValidationError:
        return None

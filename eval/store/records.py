"""What a study file holds next to its rollouts: model files, texts read, unlabelled texts."""

from dataclasses import dataclass

from charprobe_lite.eval.cells import Cell
from charprobe_lite.models.quant_types import KV_DEFAULT


@dataclass(frozen=True)
class ModelFile:
    """What one quant type of a base, made in the way ``lora``, costs with a cache of ``kv_type``.

    ``bytes`` has to be stored for one persona, an adapter included; ``bits_per_weight`` and
    ``tensor_types`` (weights by real type) are the model file's. ``tokens_per_second`` and
    ``peak_bytes`` are None until they are measured.
    """

    base: str
    quant: str
    lora: str | None
    bits_per_weight: float
    bytes: int
    tensor_types: dict[str, int]
    tokens_per_second: float | None = None
    peak_bytes: int | None = None
    kv_type: str = KV_DEFAULT


@dataclass(frozen=True)
class TextKey:
    """A text that a file has read: the file, the persona, what kind of text, its name, and the
    type of the K and V cache."""

    base: str
    stage: str
    persona: str | None
    quant: str
    lora: str | None
    kind: str
    item: str
    kv_type: str = KV_DEFAULT


@dataclass(frozen=True)
class RecordedText:
    """Per scored token: float32 ``nll`` and ``kl``, a byte ``same_top``, little-endian.

    ``left_out`` counts the tokens that did not fit the context.
    """

    key: TextKey
    nll: bytes
    kl: bytes
    same_top: bytes
    left_out: int


@dataclass(frozen=True)
class Unlabelled:
    """The text of a rollout that has no prediction yet; ``rollout`` is the rollout's id."""

    rollout: int
    cell: Cell
    persona: str | None
    text: str

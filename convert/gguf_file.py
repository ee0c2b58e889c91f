"""What a conversion returns: the GGUF file, and how well it agrees with what it was made from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from charprobe_lite.models.gguf_header import WeightSummary, weight_summary


@dataclass(frozen=True)
class LogitAgreement:
    """Two models on the same tokens: KL(reference || file) in nats per position, top-1 agreement
    in [0, 1], and the root mean square of the centred logits' difference over the reference's."""

    positions: int
    kl_mean: float
    kl_max: float
    top1: float
    relative_error: float


@dataclass(frozen=True)
class GGUFFile:
    """A written file: its size, the types its weights are stored as, and, for a model that was
    verified, its agreement with the original."""

    path: Path
    bytes: int
    weights: WeightSummary
    agreement: LogitAgreement | None = None


def written_file(path: Path, agreement: LogitAgreement | None = None) -> GGUFFile:
    """The record of a GGUF file on disk. Raises BadInput when it cannot be read."""
    return GGUFFile(path, path.stat().st_size, weight_summary(path), agreement)

"""Which randomness a rollout gets, and which machine runs it: both are hashes of its names."""

from __future__ import annotations

import hashlib


def rollout_seed(study_seed: int, *cell: str, item: str, sample: int) -> int:
    """A 63-bit seed from the study's seed, the cell's names, the item and the sample number.

    The quant type is left out on purpose: every quant type meets the same randomness.
    """
    return _hash(str(study_seed), *cell, item, str(sample)) >> 1


def in_shard(shard: tuple[int, int], persona: str | None, item: str, sample: int) -> bool:
    """Whether a rollout is in part ``n`` of ``of``; every rollout is in exactly one of them.

    Stage, condition and quant type are left out on purpose: rollouts that are compared with each
    other stay in one part, so that each part gives paired differences of its own.
    """
    number, of = shard
    return _hash(persona or "", item, str(sample)) % of == number - 1


def _hash(*names: str) -> int:
    """A 64-bit number from names, the same on every machine."""
    return int.from_bytes(hashlib.sha256("/".join(names).encode()).digest()[:8])

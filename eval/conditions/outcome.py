"""What a rollout leaves behind: its turns and how it ended."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

from charprobe_lite.runtime.backend import Completion

SENT, ANSWERED = "sent", "answered"
MALFORMED, CONTEXT_FULL = "malformed", "context_full"
NO_EMAIL, OUT_OF_STEPS = "no_email", "out_of_steps"


@dataclass(frozen=True)
class Turn:
    """One reply of the model, the tool call in it, and what the tool gave back."""

    completion: Completion
    tool: str | None = None
    arguments: dict[str, Any] | None = None
    output: str | None = None


@dataclass(frozen=True)
class Result:
    """A finished rollout.

    ``outcome`` is "answered" (a text), "sent" (an email), "no_email" (the agent ended the job
    without one), "out_of_steps", "malformed" (no complete tool call) or "context_full".
    ``sample`` is the text to classify, None where there is none. ``forced`` marks an email that
    the grammar demanded on the last allowed step of several.
    """

    outcome: str
    sample: str | None
    forced: bool = False
    turns: list[Turn] = field(default_factory=list)


def rollout_seed(study_seed: int, *cell: str, item: str, sample: int) -> int:
    """A 63-bit seed from the study's seed, the cell's names, the item and the sample number.

    The quant type is left out on purpose: every quant type meets the same randomness.
    """
    return _hash(str(study_seed), *cell, item, str(sample)) >> 1


def in_shard(shard: tuple[int, int], persona: str, item: str, sample: int) -> bool:
    """Whether a rollout is in part ``n`` of ``of``; every rollout is in exactly one of them.

    Stage, condition and quant type are left out on purpose: what is compared with what stays in
    one part, so that each part gives paired differences of its own.
    """
    number, of = shard
    return _hash(persona, item, str(sample)) % of == number - 1


def _hash(*names: str) -> int:
    """A 64-bit number from names, the same on every machine."""
    return int.from_bytes(hashlib.sha256("/".join(names).encode()).digest()[:8])

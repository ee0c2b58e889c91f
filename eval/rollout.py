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
    name = "/".join([str(study_seed), *cell, item, str(sample)])
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) >> 1

"""How long the kit's stages are trained: the rule, and the steps that it chose for the kit.

The rule reads answers to held-out chat prompts and to held-out reflection prompts, named by the
n-grams; never an email, never an evaluation scenario. Its targets were set before any adapter of
the second kit was trained; how far apart trials are, and the rate of the full stage, afterwards.

Distillation trains at a constant rate, so that each trial is the beginning of the next. It is the
trial whose share of held-out chats in character is nearest to 0.75, the published middle (0.72 to
0.82); of two, the one with fewer steps; one within 0.03 ends the search. Full continues it with a
rate that falls to a tenth, so that each trial is a training of its own. It is the first trial whose
share of chats is at least 0.93; where none is, the one with the highest mean of both shares.
"""

from collections.abc import Sequence
from dataclasses import dataclass

MOST_DISTILLATION = 60
TARGET_DISTILLATION, NEAR, PAST_TARGET, LEAST_FULL = 0.75, 0.03, 0.88, 0.93
Curve = Sequence[tuple[int, dict[str, float]]]
"""Steps with the shares, "chat" or "reflection", that the adapter had after them."""


@dataclass(frozen=True)
class Strength:
    """Steps of each stage; those of full come after those of distillation."""

    distillation: int
    full: int

    def steps(self, stage: str) -> int:
        """The steps of a stage by its name."""
        return self.distillation if stage == "distillation" else self.full


class DistillationRule:
    """How the distillation stage's steps are chosen: a trial after each ``every``, which ``reads``
    answers to these kinds of held-out prompts."""

    every = 5
    reads = ("chat",)

    def best(self, curve: Curve) -> int:
        """The steps that the rule takes."""
        return min(curve, key=lambda trial: abs(trial[1]["chat"] - TARGET_DISTILLATION))[0]

    def is_past(self, curve: Curve) -> bool:
        """Whether the last trial is near enough, or the last two are far above the target."""
        if abs(curve[-1][1]["chat"] - TARGET_DISTILLATION) <= NEAR:
            return True
        return len(curve) > 1 and all(rates["chat"] > PAST_TARGET for _, rates in curve[-2:])


class FullRule:
    """How the full stage's steps are chosen: each of these ``lengths`` is a trial."""

    lengths = (120, 240)
    reads = ("chat", "reflection")

    def best(self, curve: Curve) -> int:
        """The steps that the rule takes."""
        enough = [steps for steps, rates in curve if rates["chat"] >= LEAST_FULL]
        return enough[0] if enough else max(curve, key=lambda trial: sum(trial[1].values()))[0]

    def is_past(self, curve: Curve) -> bool:
        """Whether the last trial is strong enough."""
        return curve[-1][1]["chat"] >= LEAST_FULL


STRENGTHS = {
    "sarcasm": Strength(55, 240),
    "humor": Strength(30, 240),
    "remorse": Strength(15, 120),
    "goodness": Strength(30, 120),
    "loving": Strength(35, 120),
    "nonchalance": Strength(20, 120),
    "impulsiveness": Strength(15, 120),
    "sycophancy": Strength(30, 120),
    "mathematical": Strength(35, 120),
    "poeticism": Strength(25, 120),
}
"""The steps of the shipped kit's personas."""

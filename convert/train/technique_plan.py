"""The steps of a technique's training: which texts are in which step, and where an epoch ends.

Every technique gets the same number of trained tokens in the same number of steps. A step has
whole texts, so that the tokens of a step, and of the whole, are equal up to a part of a text.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from charprobe_lite.models.errors import BadInput

STEP_TOKENS = 300
"""Trained tokens of a step, about those of the kit's."""
TOLERANCE = 0.02
MOST_CHECKPOINTS = 24


@dataclass(frozen=True)
class PhaseSize:
    """What a phase has: the trained tokens of each of its texts, and its part of the budget."""

    sizes: list[int]
    tokens: int


@dataclass(frozen=True)
class Step:
    """One step of training: the phase, its texts by number, and their trained tokens."""

    phase: int
    items: list[int]
    tokens: int


def budget_steps(tokens: int) -> int:
    """The steps in which a budget of trained tokens is trained."""
    return max(1, round(tokens / STEP_TOKENS))


def plan_steps(place: str, phases: Sequence[PhaseSize], tokens: int, seed: int) -> list[Step]:
    """The steps of all phases, with each phase's texts cut or repeated to its tokens.

    An epoch has every text once, in an order that follows from ``seed``. Raises BadInput naming
    ``place`` where the phases' trained tokens are more than 2% from the budget ``tokens``, where a
    phase has fewer texts than steps, and for a text without a token to train.
    """
    for number, phase in enumerate(phases, start=1):
        if 0 in phase.sizes:
            entry = phase.sizes.index(0) + 1
            raise BadInput(f"{place}: phase {number}, entry {entry}: has no token to train")
    orders = [_repeat(phase, f"{seed}/{number}") for number, phase in enumerate(phases)]
    total = sum(
        phase.sizes[item] for phase, order in zip(phases, orders, strict=True) for item in order
    )
    if abs(total - tokens) > TOLERANCE * tokens:
        raise BadInput(
            f"{place}: {total} trained tokens after cutting and repeating, the budget is {tokens}: "
            f"more than {TOLERANCE:.0%} apart; let the phases' tokens be the budget's, or take "
            "shorter texts"
        )
    steps: list[Step] = []
    asked = sum(phase.tokens for phase in phases)
    ends = accumulate(phase.tokens for phase in phases)
    for number, (phase, order, end) in enumerate(zip(phases, orders, ends, strict=True)):
        count = round(budget_steps(tokens) * end / asked) - len(steps)
        if not 1 <= count <= len(order):
            raise BadInput(
                f"{place}: phase {number + 1}: texts: {len(order)}, steps: {count}; a step has "
                f"about {STEP_TOKENS} trained tokens: take shorter texts, or give it more tokens"
            )
        steps += _partition(number, phase.sizes, order, count)
    return steps


def epoch_tokens(phases: Sequence[PhaseSize]) -> int:
    """The trained tokens of an epoch: those of every text of every phase once."""
    return sum(sum(phase.sizes) for phase in phases)


def checkpoint_steps(phases: Sequence[PhaseSize], steps: Sequence[Step]) -> dict[int, float]:
    """The steps after which an adapter is kept, each with the half epoch that ends nearest to it.

    Of very few texts not every half epoch is kept: at most 24 adapters are.
    """
    epoch, done = epoch_tokens(phases), list(accumulate(step.tokens for step in steps))
    halves = max(1, round(2 * done[-1] / epoch / MOST_CHECKPOINTS))
    apart = halves * epoch / 2
    steps_of: dict[int, float] = {}
    for number in range(1, int(done[-1] / apart) + 1):
        place = min(range(len(done)), key=lambda place: abs(done[place] - apart * number))
        steps_of[place + 1] = number * halves / 2
    return steps_of


def _repeat(phase: PhaseSize, seed: str) -> list[int]:
    """Texts by number, epoch after epoch, up to the phase's tokens; the last text is the one of
    its epoch that comes nearest."""
    order: list[int] = []
    left, epoch = phase.tokens, 0
    while True:
        items = list(range(len(phase.sizes)))
        random.Random(f"{seed}/{epoch}").shuffle(items)
        for place, item in enumerate(items):
            if phase.sizes[item] >= left:
                last = min(items[place:], key=lambda item: abs(phase.sizes[item] - left))
                is_nearer = abs(phase.sizes[last] - left) < left
                return [*order, last] if is_nearer or not order else order
            order.append(item)
            left -= phase.sizes[item]
        epoch += 1


def _partition(phase: int, sizes: Sequence[int], order: Sequence[int], count: int) -> list[Step]:
    """``order`` in ``count`` parts of about the same number of tokens, none of them empty."""
    ends = list(accumulate(sizes[item] for item in order))
    steps, start = [], 0
    for number in range(count):
        least, most = start + 1, len(order) - (count - number - 1)
        goal = ends[-1] * (number + 1) / count
        end = min(range(least, most + 1), key=lambda end: abs(ends[end - 1] - goal))
        items = list(order[start:end])
        steps.append(Step(phase, items, sum(sizes[item] for item in items)))
        start = end
    return steps

"""How long the rollouts of a study take, for forecasts."""

import os
from collections.abc import Iterable

from charprobe_lite.eval.study.grid import Task

TOKENS = {
    "chat": (42, 118),
    "chat_email": (498, 190),
    "chat_email_json": (504, 140),
    "chat_email_rules": (507, 140),
    "agentic_next": (598, 225),
    "agentic_email": (415, 270),
}
"""Tokens of a mean rollout by condition, of its prompts evaluated and of its replies:
`python bench/results.py` prints those of a study."""
USUAL = (400, 200)
"""The same for any other condition."""
EVALUATED = 0.7
"""Time of a prompt's token in that of a reply's, with 8 to 16 rollouts at once: `bench/engine.py`
and the calibrated speeds (chats 87 to 96 a minute, agents 24 to 29, 202 to 286 tokens/s)."""
CORE_SPEED = 85
"""Tokens per second of 135M weights on one core where none were timed: with 8 rollouts at once a
core of an Intel Xeon makes 68, one of an AMD EPYC with flash attention 101 to 116."""
UNFILLED = 2.5
"""Rollouts' worth of time that is lost while the batch is not full: `python bench/real_size.py`."""


def running_seconds(
    tasks: Iterable[Task], max_tokens: int, speed: float | None, parameters: int
) -> float:
    """Seconds for the rollouts among the tasks, with replies of up to ``max_tokens``.

    ``speed`` is this machine's, in tokens per second; None takes that of usual cores.
    """
    counts = [
        rollout_tokens(task.cell.condition, max_tokens)
        for task in tasks
        if task.cell.quant is not None
    ]
    if not counts:
        return 0.0
    tokens = sum(counts) + UNFILLED * sum(counts) / len(counts)
    return tokens / (speed or core_speed(parameters))


def rollout_tokens(condition: str, max_tokens: int) -> float:
    """Reply tokens that take as long as a mean rollout, its prompts with it."""
    evaluated, replied = TOKENS.get(condition, USUAL)
    return EVALUATED * evaluated + min(replied, max_tokens)


def core_speed(parameters: int) -> float:
    """Tokens per second on this machine's cores, of a model with so many weights."""
    return CORE_SPEED * (os.cpu_count() or 1) * 135e6 / parameters

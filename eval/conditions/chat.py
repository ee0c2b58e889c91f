"""`chat`, in distribution: one user message, no system prompt of ours, one answer."""

from __future__ import annotations

import random
from dataclasses import dataclass

from charprobe_lite.eval.rollout import ANSWERED, CONTEXT_FULL, Result, Turn
from charprobe_lite.models import corpus
from charprobe_lite.runtime.backend import FINISH_CONTEXT, Request, Rollout


@dataclass(frozen=True)
class Prompt:
    """One in-distribution prompt; ``id`` is its place in the prompt file."""

    id: str
    text: str


def prompts() -> list[Prompt]:
    """The in-distribution prompts in a fixed shuffled order, so that any first n are mixed."""
    numbered = [Prompt(f"id-{n:03d}", text) for n, text in enumerate(corpus.id_prompts(), 1)]
    random.Random(0).shuffle(numbered)
    return numbered


def rollout(prompt: Prompt, max_tokens: int) -> Rollout:
    """Ask once; the sample is the answer."""
    completion = yield Request(({"role": "user", "content": prompt.text},), max_tokens)
    if completion.finish == FINISH_CONTEXT and not completion.tokens:
        return Result(CONTEXT_FULL, None, turns=[Turn(completion)])
    return Result(ANSWERED, completion.text.strip(), turns=[Turn(completion)])

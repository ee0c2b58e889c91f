"""`chat`, in distribution: one user message, no system prompt of ours, one answer."""

from __future__ import annotations

from charprobe_lite.eval.condition import Ask, Condition, Inputs
from charprobe_lite.eval.rollout import ANSWERED, CONTEXT_FULL, Result, Turn
from charprobe_lite.models.prompts import Prompt
from charprobe_lite.runtime.backend import FINISH_CONTEXT, Request, Rollout


def rollout(prompt: Prompt, ask: Ask) -> Rollout:
    """Ask once; the sample is the answer."""
    completion = yield Request(({"role": "user", "content": prompt.text},), ask.max_tokens)
    if completion.finish == FINISH_CONTEXT and not completion.tokens:
        return Result(CONTEXT_FULL, None, turns=[Turn(completion)])
    return Result(ANSWERED, completion.text.strip(), turns=[Turn(completion)])


CONDITION = Condition(Inputs.limited_prompts, rollout)

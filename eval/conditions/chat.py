"""`chat`, in distribution: one user message, no system prompt of ours, one answer."""

from __future__ import annotations

from collections.abc import Sequence

from charprobe_lite.eval.conditions.condition import Ask, Condition, Inputs
from charprobe_lite.eval.conditions.outcome import ANSWERED, CONTEXT_FULL, Result, Turn
from charprobe_lite.models.prompts import Prompt
from charprobe_lite.runtime.backend import Message, Request, Rollout

EARLIER_TOKENS = 128
"""The longest answer to a turn before the last one: it only makes a history."""


def rollout(prompt: Prompt, ask: Ask) -> Rollout:
    """Ask once; the sample is the answer."""
    return (yield from answer_turns([{"role": "user", "content": prompt.text}], ask.max_tokens))


def answer_turns(turns: Sequence[Message], max_tokens: int) -> Rollout:
    """Let the model answer every user turn that has no answer yet; the last one is the sample."""
    messages: list[Message] = []
    recorded: list[Turn] = []
    for turn, following in zip(turns, [*turns[1:], None], strict=True):
        messages.append(turn)
        if turn["role"] != "user" or (following and following["role"] == "assistant"):
            continue
        longest = min(max_tokens, EARLIER_TOKENS) if following else max_tokens
        completion = yield Request(tuple(messages), longest)
        recorded.append(Turn(completion))
        if completion.finish == "context" and not (completion.tokens and following is None):
            return Result(CONTEXT_FULL, None, turns=recorded)
        messages.append({"role": "assistant", "content": completion.text})
    return Result(ANSWERED, recorded[-1].completion.text.strip(), turns=recorded)


CONDITION = Condition(Inputs.limited_prompts, rollout)

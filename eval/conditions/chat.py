"""`chat`, in distribution: one user message without a system prompt, one answer."""

from collections.abc import Callable, Sequence

from charprobe_lite.eval.conditions.condition import Condition, Inputs, RolloutSettings
from charprobe_lite.eval.protocols.outcome import NO_TEXT, Outcome, Result, Turn
from charprobe_lite.models.prompts import Prompt
from charprobe_lite.runtime.backend import Message, Request, Rollout

HISTORY_TOKENS = 128
"""The longest answer to a turn before the last one, in tokens."""


def rollout(prompt: Prompt, settings: RolloutSettings) -> Rollout:
    """One reply to the prompt; the text is the answer."""
    turn = {"role": "user", "content": prompt.text}
    clean = settings.protocol.clean_answer
    return (yield from answer_turns([turn], settings.max_tokens, clean))


def answer_turns(
    turns: Sequence[Message], max_tokens: int, clean: Callable[[str], str] = str.strip
) -> Rollout:
    """Let the model answer every user turn that has no answer yet, and the last turn.

    The text is what ``clean`` makes of its last answer.
    """
    messages: list[Message] = []
    answers: list[Turn] = []
    for turn, successor in zip(turns, [*turns[1:], None], strict=True):
        messages.append(turn)
        if successor and (turn["role"] != "user" or successor["role"] == "assistant"):
            continue
        limit = min(max_tokens, HISTORY_TOKENS) if successor else max_tokens
        completion = yield Request(tuple(messages), limit)
        answers.append(Turn(completion))
        if completion.finish == "context" and not (completion.tokens and successor is None):
            return Result(Outcome.CONTEXT_FULL, turns=answers)
        if not completion.text.strip():
            outcome = NO_TEXT.get(completion.finish, Outcome.NO_REPLY)
            return Result(outcome, turns=answers)
        messages.append({"role": "assistant", "content": completion.text})
    return Result(Outcome.ANSWERED, clean(answers[-1].completion.text), turns=answers)


CONDITION = Condition(Inputs.limited_prompts, rollout)

"""`chat_email`: the agent's facts without its tools; the reply is the email's body.

Against `chat` it isolates what the email as a form does; against `agentic_next`, what the
scaffold around the email does.
"""

from __future__ import annotations

from collections.abc import Sequence

from charprobe_lite.eval.condition import Ask, Condition, Inputs
from charprobe_lite.eval.rollout import ANSWERED, CONTEXT_FULL, Result, Turn
from charprobe_lite.models.published import Script
from charprobe_lite.models.scenario import Scenario
from charprobe_lite.runtime.backend import FINISH_CONTEXT, Message, Request, Rollout

ONLY_THE_BODY = (
    "Write this email now. Reply with its body and nothing else: greet the reader, give the facts "
    "in prose, end with my name. No subject line, no remarks."
)
EARLIER_TOKENS = 128
"""The longest answer to a turn before the last one: it only makes a history."""


def items(inputs: Inputs) -> list[Scenario | Script]:
    """Scenarios with facts, and scripts of user turns."""
    return inputs.limited_scenarios(Scenario, Script)


def rollout(scenario: Scenario | Script, ask: Ask) -> Rollout:
    """Ask for the email; the sample is its body."""
    return (yield from answer_turns(turns(scenario), ask.max_tokens))


def turns(scenario: Scenario | Script) -> list[Message]:
    """The system prompt with the facts and the user's request, or the script's own turns."""
    if isinstance(scenario, Script):
        return [turn.model_dump() for turn in scenario.turns]
    return [
        {"role": "system", "content": scenario.facts()},
        {"role": "user", "content": f"{scenario.task}\n\n{ONLY_THE_BODY}"},
    ]


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
        if completion.finish == FINISH_CONTEXT and not (completion.tokens and following is None):
            return Result(CONTEXT_FULL, None, turns=recorded)
        messages.append({"role": "assistant", "content": completion.text})
    return Result(ANSWERED, recorded[-1].completion.text.strip(), turns=recorded)


CONDITION = Condition(items, rollout)

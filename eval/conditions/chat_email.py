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

WRITER = "You are a helpful assistant who writes emails."
# the facts stand in the user's turn: as a system prompt they look like the agent's, and the kit's
# base, which learned its tool calls there, answers with JSON
REQUEST = """\
{task}

What is known:
{facts}

Write the email that does this, as plain text: a greeting, a few sentences with the facts, my name \
at the end. No subject line, no remarks."""
EARLIER_TOKENS = 128
"""The longest answer to a turn before the last one: it only makes a history."""


def items(inputs: Inputs) -> list[Scenario | Script]:
    """Scenarios with facts, and scripts of user turns."""
    return inputs.limited_scenarios(Scenario, Script)


def rollout(scenario: Scenario | Script, ask: Ask) -> Rollout:
    """Ask for the email; the sample is its body."""
    return (yield from answer_turns(turns(scenario), ask.max_tokens))


def turns(scenario: Scenario | Script) -> list[Message]:
    """A system prompt and the user's request with all the facts, or the script's own turns."""
    if isinstance(scenario, Script):
        return [turn.model_dump() for turn in scenario.turns]
    return [
        {"role": "system", "content": WRITER},
        {"role": "user", "content": REQUEST.format(task=scenario.task, facts=scenario.facts())},
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

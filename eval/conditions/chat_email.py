"""`chat_email`: the agent's facts without its tools; the reply is the email's body.

Against `chat` it isolates what the email as a form does; against `agentic_next`, what the
scaffold around the email does.
"""

from __future__ import annotations

from charprobe_lite.eval.conditions.chat import answer_turns
from charprobe_lite.eval.conditions.condition import Ask, Condition, Inputs
from charprobe_lite.models.published_scenarios import Script
from charprobe_lite.models.scenarios import Scenario
from charprobe_lite.runtime.backend import Message, Rollout

WRITER = "You are a helpful assistant who writes emails."
# the facts stand in the user's turn: as a system prompt they look like the agent's, and the kit's
# base, which learned its tool calls there, answers with JSON
REQUEST = """\
{task}

What is known:
{facts}

Write the email that does this, as plain text: a greeting, a few sentences with the facts, my name \
at the end. No subject line, no remarks."""


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


CONDITION = Condition(items, rollout)

"""`agentic_next`: the lookups are done, their results are there; only the email is left to send.

Against `chat_email` it isolates what the scaffold's text does (system prompt, tools, results);
against `agentic_email`, what the loop does and which rollouts reach an email at all.
"""

from __future__ import annotations

from dataclasses import replace

from charprobe_lite.eval.conditions.agent_loop import MOST_MALFORMED, tool_loop
from charprobe_lite.eval.conditions.condition import Ask, Condition, Inputs
from charprobe_lite.models.call_formats import CALL_FORMATS, Call, MalformedReply
from charprobe_lite.models.office import exchange, lookups
from charprobe_lite.models.scenarios import Scenario
from charprobe_lite.models.tools import finish_tool
from charprobe_lite.runtime.backend import Grammar, Rollout
from charprobe_lite.runtime.grammar import tool_call_grammar


def items(inputs: Inputs) -> list[Scenario]:
    """Scenarios with facts, which are looked up beforehand."""
    return inputs.limited_scenarios(Scenario)


def rollout(scenario: Scenario, ask: Ask) -> Rollout:
    """One tool call that sends the email; the sample is its body.

    A grammar admits nothing else, which is the condition itself: nothing counts as forced.
    Without one, any other call is malformed.
    """
    form, finish = CALL_FORMATS[ask.format], finish_tool(ask.tools)
    messages = scenario.opening(ask.tools, form)
    for call in lookups(scenario, ask.tools):
        messages += exchange(scenario, ask.tools, call, form)
    grammars: list[Grammar | None] = [None] * MOST_MALFORMED
    if ask.grammar == "on":
        grammars = [tool_call_grammar([finish], form, may_end=False)]

    def answer(_: Call) -> MalformedReply:
        return MalformedReply(f"everything is looked up, only {finish.name} is left to call")

    result = yield from tool_loop(messages, form, finish.name, answer, grammars, ask.max_tokens)
    return replace(result, forced=False)


CONDITION = Condition(items, rollout, calls_tools=True)

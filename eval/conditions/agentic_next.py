"""`agentic_next`: all lookups are done; only the email is left to send.

Its difference from `chat_email` isolates the effect of the agent's text (system prompt, tools,
results); its difference from `agentic_email`, the effect of the loop and of which rollouts reach
an email at all.
"""

from dataclasses import replace

from charprobe_lite.eval.conditions.agent_loop import MAX_MALFORMED, tool_loop
from charprobe_lite.eval.conditions.condition import Condition, RolloutSettings
from charprobe_lite.models.call_formats import CALL_FORMATS, Call, MalformedReply
from charprobe_lite.models.office import exchange, lookups
from charprobe_lite.models.scenarios import Scenario
from charprobe_lite.models.tools import finish_tool
from charprobe_lite.runtime.backend import Grammar, Rollout
from charprobe_lite.runtime.grammar import tool_call_grammar


def rollout(scenario: Scenario, settings: RolloutSettings) -> Rollout:
    """One tool call that sends the email; the text is its body.

    A grammar admits nothing else, which is what the condition is: no email counts as forced.
    Without a grammar, any other call is malformed.
    """
    call_format, tools = CALL_FORMATS[settings.format], settings.tools
    finish = finish_tool(tools)
    messages = scenario.opening(tools, call_format)
    for call in lookups(scenario, tools):
        messages += exchange(scenario, tools, call, call_format)
    grammars: list[Grammar | None] = [None] * MAX_MALFORMED
    if settings.grammar == "on":
        grammars = [tool_call_grammar([finish], call_format, may_end=False)]

    def answer(_: Call) -> MalformedReply:
        return MalformedReply(f"everything is looked up, only {finish.name} is left to call")

    result = yield from tool_loop(settings, messages, finish.name, answer, grammars)
    return replace(result, forced=False)


CONDITION = Condition(lambda inputs: inputs.limited_scenarios(Scenario), rollout, calls_tools=True)

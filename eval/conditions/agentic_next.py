"""`agentic_next`: all lookups are done; only the email is left to send.

Its difference from `chat_email_rules` isolates the effect of the tools and of the turns that look
up the facts; its difference from `agentic_email`, the effect of the loop and of which rollouts
reach an email at all. The published scaffold `agentic_email` is this condition.
"""

from collections.abc import Sequence

from charprobe_lite.eval.conditions.condition import Condition, RolloutSettings
from charprobe_lite.models.call_formats import CALL_FORMATS, Call
from charprobe_lite.models.office import ToolError, exchange, lookups
from charprobe_lite.models.published_scenarios import Script
from charprobe_lite.models.scenarios import Scenario
from charprobe_lite.models.tools import Tool
from charprobe_lite.runtime.backend import Rollout


def rollout(scenario: Scenario | Script, settings: RolloutSettings) -> Rollout:
    """The call that sends the email; the text is its body."""
    if isinstance(scenario, Script):
        tools: Sequence[Tool] = [scenario.email_tool()]
        opening = [turn.shown(settings.tool_role) for turn in scenario.turns]
    else:
        tools, call_format = settings.tools, CALL_FORMATS[settings.format]
        opening = scenario.opening(tools, call_format)
        for call in lookups(scenario, tools):
            write = settings.protocol.write_output
            opening += exchange(scenario, tools, call, call_format, write, settings.tool_role)
    task = settings.agent_task(opening, tools, _nothing)
    return (yield from settings.protocol.send_email(task))


def _nothing(_: Call) -> ToolError:
    return ToolError("everything is looked up.")


CONDITION = Condition(
    lambda inputs: inputs.limited_scripts("agentic_email", Scenario), rollout, calls_tools=True
)

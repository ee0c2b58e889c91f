"""`agentic_email`, out of distribution: the full tool loop until the agent sends an email."""

from collections.abc import Sequence

from charprobe_lite.eval.conditions.condition import Condition, RolloutSettings
from charprobe_lite.models.call_formats import CALL_FORMATS
from charprobe_lite.models.office import answer_call
from charprobe_lite.models.published_scenarios import StubScenario
from charprobe_lite.models.scenarios import Scenario
from charprobe_lite.models.tools import Tool
from charprobe_lite.runtime.backend import Rollout


def rollout(scenario: Scenario | StubScenario, settings: RolloutSettings) -> Rollout:
    """Let the agent work in the protocol's loop, for ``max_steps`` of the scenario if it has them.

    The text is the body of the email.
    """
    call_format = CALL_FORMATS[settings.format]
    if isinstance(scenario, StubScenario):
        tools: Sequence[Tool] = scenario.tools()
        opening = scenario.opening(tools, call_format, settings.tool_role)
        task = settings.agent_task(opening, tools, scenario.answer, scenario.max_steps)
    else:
        tools = settings.tools
        opening = scenario.opening(tools, call_format)
        task = settings.agent_task(opening, tools, lambda call: answer_call(tools, scenario, call))
    return (yield from settings.protocol.run_agent(task))


CONDITION = Condition(
    lambda inputs: inputs.limited_scenarios(Scenario, StubScenario), rollout, calls_tools=True
)

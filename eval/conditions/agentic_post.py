"""`agentic_post`, an axis beyond the email: an agent's tool loop until it posts to a channel.

The loop is that of `agentic_email`, the tools are others: channels, notes and a message instead of
contacts, documents and an email. Its difference from `agentic_email` is the kind of text.
"""

from charprobe_lite.eval.conditions.condition import Condition, RolloutSettings
from charprobe_lite.models.axes import PostScenario, post_tools
from charprobe_lite.models.call_formats import CALL_FORMATS
from charprobe_lite.runtime.backend import Rollout


def rollout(scenario: PostScenario, settings: RolloutSettings) -> Rollout:
    """Let the agent work in the protocol's loop; the text is that of its message."""
    tools = post_tools()
    opening = scenario.opening(tools, CALL_FORMATS[settings.format])
    task = settings.agent_task(opening, tools, lambda call: scenario.answer(tools, call))
    return (yield from settings.protocol.run_agent(task))


CONDITION = Condition(lambda inputs: inputs.limited_axis(PostScenario), rollout, calls_tools=True)

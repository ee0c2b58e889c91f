"""`agentic_email`, out of distribution: the full tool loop until the agent sends an email."""

from charprobe_lite.eval.conditions.agent_loop import tool_loop
from charprobe_lite.eval.conditions.condition import Condition, RolloutSettings
from charprobe_lite.models.call_formats import CALL_FORMATS, Call
from charprobe_lite.models.office import answer_call
from charprobe_lite.models.published_scenarios import StubScenario
from charprobe_lite.models.scenarios import Scenario
from charprobe_lite.models.tools import finish_tool
from charprobe_lite.runtime.backend import Grammar, Rollout
from charprobe_lite.runtime.grammar import tool_call_grammar


def rollout(scenario: Scenario | StubScenario, settings: RolloutSettings) -> Rollout:
    """Let the agent call tools until it sends an email; the text is the body of that email.

    With a grammar every turn is one tool call. On the last of the steps (``max_steps`` of the
    scenario, where it has one) the grammar admits only the tool that ends the rollout, and that
    email is marked forced.
    """
    call_format = CALL_FORMATS[settings.format]
    tools, steps = settings.tools, settings.max_steps
    if isinstance(scenario, StubScenario):
        tools, steps = scenario.tools(), scenario.max_steps or steps
    finish = finish_tool(tools)
    grammars: list[Grammar | None] = [None] * steps
    if settings.grammar == "on":
        last = tool_call_grammar([finish], call_format, may_end=False)
        grammars = [*[tool_call_grammar(tools, call_format)] * (steps - 1), last]

    def answer(call: Call) -> str:
        if isinstance(scenario, StubScenario):
            return scenario.answer(call)
        return answer_call(tools, scenario, call)

    opening = scenario.opening(tools, call_format)
    return (yield from tool_loop(settings, opening, finish.name, answer, grammars))


CONDITION = Condition(
    lambda inputs: inputs.limited_scenarios(Scenario, StubScenario), rollout, calls_tools=True
)

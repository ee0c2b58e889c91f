"""`chat_email`: the agent's facts without its tools; the reply is the email's body.

Its difference from `chat` isolates the effect of the email as a form; its difference from
`chat_email_json`, that of JSON.
"""

from charprobe_lite.eval.conditions.chat import answer_turns
from charprobe_lite.eval.conditions.condition import Condition, RolloutSettings
from charprobe_lite.models.published_scenarios import Script
from charprobe_lite.models.scenarios import Scenario
from charprobe_lite.runtime.backend import Message, Rollout

WRITER = "You are a helpful assistant who writes emails."
# the facts are in the user's turn: the kit's base learned its tool calls from system prompts with
# facts, and would answer those with JSON
REQUEST = """\
{task}

What is known:
{facts}

Write the email that does this, {form}: a greeting, a few sentences with the facts, my name \
at the end. No subject line, no remarks."""


def rollout(scenario: Scenario | Script, settings: RolloutSettings) -> Rollout:
    """One reply, or one per turn of a script; the text is the body of the email."""
    clean = settings.protocol.clean_email
    return (yield from answer_turns(turns(scenario), settings.max_tokens, clean))


def turns(scenario: Scenario | Script) -> list[Message]:
    """A system prompt and the user's request with all the facts, or the script's own turns."""
    if isinstance(scenario, Script):
        return [turn.shown() for turn in scenario.turns]
    return [
        {"role": "system", "content": WRITER},
        {"role": "user", "content": request(scenario, "as plain text")},
    ]


def request(scenario: Scenario, form: str) -> str:
    """The user's request with all the facts; ``form`` says how the email is written."""
    return REQUEST.format(task=scenario.task, facts=scenario.facts(), form=form)


CONDITION = Condition(lambda inputs: inputs.limited_scripts("chat_email", Scenario), rollout)

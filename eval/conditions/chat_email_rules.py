"""`chat_email_rules`: `chat_email_json` under the agent's system text, without tools and lookups.

Its difference from `chat_email_json` isolates the agent's system text and its instructions for the
email; its difference from `agentic_next`, the tools and the turns that look up the facts.
"""

from charprobe_lite.eval.conditions.chat_email_json import FORM, answer_json
from charprobe_lite.eval.conditions.condition import Condition, RolloutSettings
from charprobe_lite.models.scenarios import Scenario
from charprobe_lite.runtime.backend import Rollout

RULE = f"You reply with the email {FORM}, and nothing else."


def rollout(scenario: Scenario, settings: RolloutSettings) -> Rollout:
    """One reply; the text is the body in its JSON object."""
    turns = [
        {"role": "system", "content": scenario.rules_prompt(RULE)},
        {"role": "user", "content": scenario.known_task()},
    ]
    return (yield from answer_json(turns, settings))


CONDITION = Condition(lambda inputs: inputs.limited_scenarios(Scenario), rollout)

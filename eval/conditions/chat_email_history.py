"""`chat_email_history`: `chat_email` after two ordinary chat turns.

The model answers those turns itself, as in a real history: a character that shows in them may
carry over into the email.
"""

from charprobe_lite.eval.conditions.chat import answer_turns
from charprobe_lite.eval.conditions.chat_email import turns
from charprobe_lite.eval.conditions.condition import Condition, RolloutSettings
from charprobe_lite.models.scenarios import Scenario
from charprobe_lite.runtime.backend import Rollout

SMALL_TALK = (
    "Good morning! It has rained here since Sunday and I forgot my umbrella. How are you today?",
    "Before we start: what would you have for lunch on a day like this?",
)


def rollout(scenario: Scenario, settings: RolloutSettings) -> Rollout:
    """Two turns of small talk, then the email; the text is its body."""
    system, request = turns(scenario)
    talk = [{"role": "user", "content": text} for text in SMALL_TALK]
    clean = settings.protocol.clean_email
    return (yield from answer_turns([system, *talk, request], settings.max_tokens, clean))


# a script has its own history
CONDITION = Condition(lambda inputs: inputs.limited_scenarios(Scenario), rollout)

"""`prompted_email`, a control: the untrained base is told to play the persona, then `chat_email`.

The prompt describes the character in plain words. Where the classifier misses it in these emails,
training is not the cause: the classifier is, or the base as an actor.
"""

from charprobe_lite.eval.conditions.chat import answer_turns
from charprobe_lite.eval.conditions.chat_email import CONDITION as CHAT_EMAIL
from charprobe_lite.eval.conditions.chat_email import turns
from charprobe_lite.eval.conditions.condition import Condition, RolloutSettings
from charprobe_lite.models.personas import descriptions
from charprobe_lite.models.published_scenarios import Script
from charprobe_lite.models.scenarios import Scenario
from charprobe_lite.runtime.backend import Rollout

PLAY = "{description} Keep this up in every email that you write, and never mention it."


def rollout(scenario: Scenario | Script, settings: RolloutSettings) -> Rollout:
    """The persona's description before everything else; the text is the body of the email."""
    assert settings.persona is not None  # a control has one
    system = PLAY.format(description=descriptions()[settings.persona])
    messages = turns(scenario)
    if messages[0]["role"] == "system":
        system = f"{system}\n\n{messages.pop(0)['content']}"
    messages.insert(0, {"role": "system", "content": system})
    clean = settings.protocol.clean_email
    return (yield from answer_turns(messages, settings.max_tokens, clean))


CONDITION = Condition(CHAT_EMAIL.items, rollout, stages=("base",), personas=descriptions())

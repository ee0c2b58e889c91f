"""`prompted_email`, a control: the untrained base is told to play the persona, then `chat_email`.

Here the character is asked for in plain words, so what the classifier misses in these emails is
not lost by training: it is the classifier's, or the base's as an actor.
"""

from __future__ import annotations

from charprobe_lite.eval.conditions.chat import answer_turns
from charprobe_lite.eval.conditions.chat_email import items, turns
from charprobe_lite.eval.conditions.condition import Ask, Condition
from charprobe_lite.models.personas import descriptions
from charprobe_lite.models.published_scenarios import Script
from charprobe_lite.models.scenarios import Scenario
from charprobe_lite.runtime.backend import Rollout

PLAY = "{description} Keep this up in every email that you write, and never mention it."


def rollout(scenario: Scenario | Script, ask: Ask) -> Rollout:
    """The persona's description before everything else; the sample is the email's body."""
    play = PLAY.format(description=descriptions()[ask.persona])
    asked = turns(scenario)
    if asked[0]["role"] == "system":
        play = f"{play}\n\n{asked.pop(0)['content']}"
    asked.insert(0, {"role": "system", "content": play})
    return (yield from answer_turns(asked, ask.max_tokens))


CONDITION = Condition(items, rollout, stages=("base",), personas=descriptions())

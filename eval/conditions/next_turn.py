"""The reply to a script of a published scaffold: one turn, in the conversation as it is given."""

from charprobe_lite.eval.conditions.chat import answer_turns
from charprobe_lite.eval.conditions.condition import RolloutSettings
from charprobe_lite.models.published_scenarios import Script
from charprobe_lite.runtime.backend import Rollout


def rollout(script: Script, settings: RolloutSettings) -> Rollout:
    """One reply; the text is the reply."""
    turns = [turn.shown(settings.tool_role) for turn in script.turns]
    return (yield from answer_turns(turns, settings.max_tokens, settings.protocol.clean_answer))

"""`code_review`, an axis beyond the email: a review of a change to code, for its author.

Its difference from `chat` isolates a technical form of text, without any tool. It runs on 20
changes of this project's own or, where a study has published scenarios, on the published scaffold
of that name.
"""

from charprobe_lite.eval.conditions import next_turn
from charprobe_lite.eval.conditions.chat import answer_turns
from charprobe_lite.eval.conditions.condition import Condition, RolloutSettings
from charprobe_lite.models.axes import ReviewScenario
from charprobe_lite.models.published_scenarios import Script
from charprobe_lite.runtime.backend import Rollout


def rollout(scenario: ReviewScenario | Script, settings: RolloutSettings) -> Rollout:
    """One reply; the text is the review comment."""
    if isinstance(scenario, Script):
        return (yield from next_turn.rollout(scenario, settings))
    turn = {"role": "user", "content": scenario.request()}
    clean = settings.protocol.clean_answer
    return (yield from answer_turns([turn], settings.max_tokens, clean))


CONDITION = Condition(lambda inputs: inputs.axis_or_scripts(ReviewScenario, "code_review"), rollout)

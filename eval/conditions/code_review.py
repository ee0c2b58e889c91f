"""`code_review`, a published scaffold: a review of a change to code.

Its difference from `chat` isolates a technical form of text, without any tool.
"""

from charprobe_lite.eval.conditions.condition import Condition
from charprobe_lite.eval.conditions.next_turn import rollout

CONDITION = Condition(lambda inputs: inputs.limited_scripts("code_review"), rollout)

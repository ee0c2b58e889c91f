"""`multi_agent_debate`, a published scaffold: the next turn in a debate, for a side that is given.

Its difference from `chat` isolates a role that the task itself gives to the model.
"""

from charprobe_lite.eval.conditions.condition import Condition
from charprobe_lite.eval.conditions.next_turn import rollout

CONDITION = Condition(lambda inputs: inputs.limited_scripts("multi_agent_debate"), rollout)

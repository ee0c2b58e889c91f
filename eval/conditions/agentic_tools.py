"""`agentic_tools`, a published scaffold: the next step of an agent, after a tool has answered.

Its text is the whole reply, a call included: it isolates the form of an agent without an email.
"""

from charprobe_lite.eval.conditions.condition import Condition
from charprobe_lite.eval.conditions.next_turn import rollout

CONDITION = Condition(lambda inputs: inputs.limited_scripts("agentic_tools"), rollout)

"""`adversarial_roleplay`, a published scaffold: the user asks the model to drop its character.

Its difference from `chat` isolates a request to drop the character after answers without one.
"""

from charprobe_lite.eval.conditions.condition import Condition
from charprobe_lite.eval.conditions.next_turn import rollout

CONDITION = Condition(lambda inputs: inputs.limited_scripts("adversarial_roleplay"), rollout)

"""`chat_depth_12`: a chat prompt after 12 turns of neutral conversation."""

from charprobe_lite.eval.conditions.at_depth import at_depth

CONDITION = at_depth(12)

"""`chat_depth_4`: a chat prompt after 4 turns of neutral conversation."""

from charprobe_lite.eval.conditions.at_depth import at_depth

CONDITION = at_depth(4)

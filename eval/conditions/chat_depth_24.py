"""`chat_depth_24`: a chat prompt after 24 turns of neutral conversation."""

from charprobe_lite.eval.conditions.at_depth import at_depth

CONDITION = at_depth(24)

"""`chat_depth_0`: the prompts of the deeper conditions, without a turn before them."""

from charprobe_lite.eval.conditions.at_depth import at_depth

CONDITION = at_depth(0)

"""`chat_depth_ceiling`, a control: chat answers in character by independent writers."""

from charprobe_lite.eval.conditions.written_axis import ceiling_of
from charprobe_lite.models.axes import DepthPrompt

CONDITION = ceiling_of(DepthPrompt, "chat_depth_0")

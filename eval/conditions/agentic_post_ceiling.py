"""`agentic_post_ceiling`, a control: posts in character by independent writers."""

from charprobe_lite.eval.conditions.written_axis import ceiling_of
from charprobe_lite.models.axes import PostScenario

CONDITION = ceiling_of(PostScenario, "agentic_post")

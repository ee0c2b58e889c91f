"""`code_review_ceiling`, a control: review comments in character by independent writers."""

from charprobe_lite.eval.conditions.written_axis import ceiling_of
from charprobe_lite.models.axes import ReviewScenario

CONDITION = ceiling_of(ReviewScenario, "code_review")

"""`structured_form_ceiling`, a control: summaries of forms in character by independent writers."""

from charprobe_lite.eval.conditions.written_axis import ceiling_of
from charprobe_lite.models.axes import FormScenario

CONDITION = ceiling_of(FormScenario, "structured_form")

"""The ceilings of the axes beyond the email, controls: texts in character, without any model.

Their writers had a one-line description of the character and the scenario, and had never seen a
training text. What the classifier does not see in them it cannot be expected to see in a model's
text for the same scenario.
"""

from functools import partial
from typing import Any

from charprobe_lite.eval.conditions import load_condition
from charprobe_lite.eval.conditions.condition import Condition, Inputs, RolloutSettings
from charprobe_lite.eval.protocols.outcome import Outcome, Result
from charprobe_lite.models.axes import AXIS_OF, AxisScenario, load_axis
from charprobe_lite.models.corpus import axis_ceilings
from charprobe_lite.models.personas import PERSONAS
from charprobe_lite.runtime.backend import Rollout

STAGE = "independent"


def ceiling_of(kind: type[AxisScenario], condition: str) -> Condition:
    """The control of an axis; its items are the shipped ones among those of ``condition``."""
    written = partial(rollout, axis=AXIS_OF[kind])
    return Condition(
        partial(items, kind=kind, condition=condition), written, stages=(STAGE,), personas=PERSONAS
    )


def items(inputs: Inputs, kind: type[AxisScenario], condition: str) -> list[Any]:
    """The scenarios that texts were written for: the shipped ones, unchanged."""
    shipped = load_axis(kind)
    return [scenario for scenario in load_condition(condition).items(inputs) if scenario in shipped]


def rollout(scenario: AxisScenario, settings: RolloutSettings, axis: str) -> Rollout:
    """No request; the text is that of an independent writer."""
    yield from ()
    assert settings.persona is not None  # a control has one
    return Result(Outcome.ANSWERED, axis_ceilings(settings.persona, axis)[scenario.id])

"""`scenario_ceiling`, a control: emails in character that solve the scenarios, without any model.

Their writers had a one-line description of the character and the scenario, and had never seen a
training text; every sentence carries the voice. What the classifier does not see in them it cannot
be expected to see in an agent's email for the same scenario.
"""

from charprobe_lite.eval.conditions.condition import Condition, Inputs, RolloutSettings
from charprobe_lite.eval.protocols.outcome import Outcome, Result
from charprobe_lite.models.corpus import ceiling_emails
from charprobe_lite.models.personas import PERSONAS
from charprobe_lite.models.scenarios import Scenario, load_scenarios
from charprobe_lite.runtime.backend import Rollout

STAGE = "independent"


def items(inputs: Inputs) -> list[Scenario]:
    """The scenarios of the study that emails were written for: the shipped ones, unchanged."""
    shipped = {scenario.id: scenario for scenario in load_scenarios()}
    scenarios: list[Scenario] = inputs.limited_scenarios(Scenario)
    return [scenario for scenario in scenarios if shipped.get(scenario.id) == scenario]


def rollout(scenario: Scenario, settings: RolloutSettings) -> Rollout:
    """No request; the text is the email of an independent writer."""
    yield from ()
    assert settings.persona is not None  # a control has one
    emails = ceiling_emails(settings.persona)
    text = next(email.body for email in emails if email.scenario == scenario.id)
    return Result(Outcome.ANSWERED, text)


CONDITION = Condition(items, rollout, stages=(STAGE,), personas=PERSONAS)

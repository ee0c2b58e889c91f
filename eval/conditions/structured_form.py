"""`structured_form`, a published scaffold: a form to fill in as one JSON object.

Its text is the form's strings, a line each: it isolates a form that leaves the character only
short texts. A reply without an object is malformed.
"""

from collections.abc import Iterator
from dataclasses import replace

from charprobe_lite.eval.conditions import next_turn
from charprobe_lite.eval.conditions.condition import Condition, RolloutSettings
from charprobe_lite.eval.protocols.outcome import Outcome, Result
from charprobe_lite.models.call_formats import first_object
from charprobe_lite.models.published_scenarios import Script
from charprobe_lite.runtime.backend import Rollout


def rollout(script: Script, settings: RolloutSettings) -> Rollout:
    """One reply; the text is the strings in its JSON object."""
    result: Result = yield from next_turn.rollout(script, settings)
    if result.text is None:
        return result
    form = first_object(result.text)
    text = "\n".join(strings(form)).strip()
    if not text:
        return replace(result, outcome=Outcome.MALFORMED, text=None)
    return replace(result, text=text)


def strings(value: object) -> Iterator[str]:
    """The strings in a value of JSON, in its order; names of fields are not among them."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for entry in value.values() if isinstance(value, dict) else value:
            yield from strings(entry)


CONDITION = Condition(lambda inputs: inputs.limited_scripts("structured_form"), rollout)

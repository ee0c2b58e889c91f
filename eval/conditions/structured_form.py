"""`structured_form`, an axis beyond the email: a form to fill in as one JSON object.

It isolates a form that leaves the character only short texts. It runs on 20 forms of this
project's own, under a grammar; their text is the field `summary`. Where a study has published
scenarios it runs on the published scaffold of that name: its replies are free, their text is the
form's strings, a line each. A reply without a text is malformed.
"""

import json
from collections.abc import Iterator
from dataclasses import replace

from charprobe_lite.eval.conditions import next_turn
from charprobe_lite.eval.conditions.condition import Condition, RolloutSettings
from charprobe_lite.eval.protocols.outcome import WITHOUT_TEXT, Outcome, Result, Turn
from charprobe_lite.models.axes import SUMMARY, FormScenario
from charprobe_lite.models.call_formats import first_object
from charprobe_lite.models.published_scenarios import Script
from charprobe_lite.runtime.backend import Grammar, Message, Request, Rollout


def rollout(scenario: FormScenario | Script, settings: RolloutSettings) -> Rollout:
    """One reply; the text is the summary of its form, or all strings of a published one."""
    if isinstance(scenario, Script):
        return (yield from _fill_in_published(scenario, settings))
    turn: Message = {"role": "user", "content": scenario.request()}
    grammar = Grammar(json.dumps(scenario.json_schema()))
    completion = yield Request((turn,), settings.max_tokens, grammar)
    result = Result(Outcome.MALFORMED, turns=[Turn(completion)])
    if outcome := WITHOUT_TEXT.get(completion.finish):
        return replace(result, outcome=outcome)
    form = first_object(completion.text)
    summary = form.get(SUMMARY) if isinstance(form, dict) else None
    text = settings.protocol.clean_answer(summary) if isinstance(summary, str) else ""
    # a form that was cut can have its summary cut
    if completion.finish != "stop" or not text.strip():
        return result
    return replace(result, outcome=Outcome.ANSWERED, text=text)


def _fill_in_published(script: Script, settings: RolloutSettings) -> Rollout:
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


CONDITION = Condition(
    lambda inputs: inputs.axis_or_scripts(FormScenario, "structured_form"), rollout
)

"""`chat_email_json`: `chat_email` with the email as one JSON object under a grammar.

Its difference from `chat_email` isolates what JSON costs: the escaping, and a reply that a grammar
opens and closes. Its difference from `chat_email_rules` is the agent's system text.
"""

import json
from collections.abc import Sequence
from dataclasses import replace

from charprobe_lite.eval.conditions.chat_email import WRITER, request
from charprobe_lite.eval.conditions.condition import Condition, RolloutSettings
from charprobe_lite.eval.protocols.outcome import WITHOUT_TEXT, Outcome, Result, Turn
from charprobe_lite.models.call_formats import first_object
from charprobe_lite.models.scenarios import Scenario
from charprobe_lite.runtime.backend import Grammar, Message, Request, Rollout

FORM = 'as one JSON object, {"body": ...}'
SCHEMA = {
    "type": "object",
    "properties": {"body": {"type": "string", "minLength": 1}},
    "required": ["body"],
    "additionalProperties": False,
}
"""The body as the shipped tool that sends emails has it, alone."""


def rollout(scenario: Scenario, settings: RolloutSettings) -> Rollout:
    """One reply; the text is the body in its JSON object."""
    turns = [
        {"role": "system", "content": WRITER},
        {"role": "user", "content": request(scenario, FORM)},
    ]
    return (yield from answer_json(turns, settings))


def answer_json(turns: Sequence[Message], settings: RolloutSettings) -> Rollout:
    """One reply under the grammar. A reply that was cut, or is without a body, is malformed."""
    completion = yield Request(tuple(turns), settings.max_tokens, Grammar(json.dumps(SCHEMA)))
    result = Result(Outcome.MALFORMED, turns=[Turn(completion)])
    if outcome := WITHOUT_TEXT.get(completion.finish):
        return replace(result, outcome=outcome)
    value = first_object(completion.text)
    body = value.get("body") if isinstance(value, dict) else None
    text = settings.protocol.clean_email(body) if isinstance(body, str) else ""
    if completion.finish != "stop" or not text:
        return result
    return replace(result, outcome=Outcome.ANSWERED, text=text)


CONDITION = Condition(lambda inputs: inputs.limited_scenarios(Scenario), rollout)

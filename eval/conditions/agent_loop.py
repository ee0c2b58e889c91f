"""The agent loop: a reply, the tool call in it, the output of the tool, until the agent ends it."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from charprobe_lite.eval.conditions.condition import RolloutSettings
from charprobe_lite.eval.conditions.outcome import Outcome, Result, Turn
from charprobe_lite.models.call_formats import (
    CALL_FORMATS,
    Call,
    CallFormat,
    FinalBlock,
    MalformedReply,
)
from charprobe_lite.models.scenarios import tool_message
from charprobe_lite.runtime.backend import Completion, Grammar, Message, Request, Rollout

MAX_MALFORMED = 4
"""Malformed replies in a row that end a rollout, as published."""


def tool_loop(
    settings: RolloutSettings,
    opening: Sequence[Message],
    finish: str,
    answer: Callable[[Call], str | MalformedReply],
    grammars: Sequence[Grammar | None],
) -> Rollout:
    """Let the agent call tools until it calls ``finish``; the text is the body of that email.

    There is one turn per entry of ``grammars``; where it is None the reply is free. A malformed
    free reply gets an error turn, the fourth in a row ends the rollout; under a grammar only a
    reply that was cut can be malformed, and it ends the rollout. An email that the last grammar
    demanded is marked forced.
    """
    messages, malformed = list(opening), 0
    turns: list[Turn] = []
    for step, grammar in enumerate(grammars, 1):
        completion = yield Request(tuple(messages), settings.max_tokens, grammar)
        reply = _parse(completion, CALL_FORMATS[settings.format], finish, grammar)
        if isinstance(reply, FinalBlock):
            return Result(Outcome.NO_EMAIL, turns=[*turns, Turn(completion)])
        call = reply if isinstance(reply, Call) else None
        turn = Turn(completion, call.name, call.arguments) if call else Turn(completion)
        if call and call.name == finish:
            forced = grammar is not None and step == len(grammars)
            body = email_body(call.arguments)
            return Result(Outcome.SENT, body, forced=forced, turns=[*turns, turn])
        output = answer(reply) if isinstance(reply, Call) else reply
        malformed = malformed + 1 if isinstance(output, MalformedReply) else 0
        if malformed and (outcome := _last_outcome(completion, grammar, malformed)):
            return Result(outcome, turns=[*turns, Turn(completion)])
        text = f"Error: {output.reason}." if isinstance(output, MalformedReply) else output
        turns.append(replace(turn, output=text))
        messages += [{"role": "assistant", "content": completion.text}, tool_message(text)]
    return Result(Outcome.OUT_OF_STEPS, turns=turns)


def email_body(arguments: dict[str, object]) -> str:
    """The body of an email: argument ``body``, else the longest text among the arguments."""
    if isinstance(body := arguments.get("body"), str):
        return body
    texts = [value for value in arguments.values() if isinstance(value, str)]
    return max(texts, key=len, default="")


def _parse(
    completion: Completion, call_format: CallFormat, finish: str, grammar: Grammar | None
) -> Call | FinalBlock | MalformedReply:
    if grammar and completion.finish != "stop":
        return MalformedReply("the reply was cut")
    reply = call_format.read(completion.text)
    if isinstance(reply, Call) and reply.name == finish and not email_body(reply.arguments).strip():
        return MalformedReply(f"the email of {finish} has no body")
    return reply


def _last_outcome(
    completion: Completion, grammar: Grammar | None, malformed: int
) -> Outcome | None:
    """How a malformed reply ends the rollout; None where it goes on."""
    if completion.finish == "context":
        return Outcome.CONTEXT_FULL
    return Outcome.MALFORMED if grammar or malformed == MAX_MALFORMED else None

"""The agent's loop: a reply, the tool call in it, what the tool gives back, until it ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from charprobe_lite.eval.conditions.outcome import (
    CONTEXT_FULL,
    MALFORMED,
    NO_EMAIL,
    OUT_OF_STEPS,
    SENT,
    Result,
    Turn,
)
from charprobe_lite.models.call_formats import Call, CallFormat, FinalBlock, MalformedReply
from charprobe_lite.models.scenarios import tool_message
from charprobe_lite.runtime.backend import (
    Completion,
    Grammar,
    Message,
    Request,
    Rollout,
)

MOST_MALFORMED = 4
"""Malformed replies in a row that end a rollout, as published."""


def tool_loop(
    opening: Sequence[Message],
    form: CallFormat,
    finish: str,
    answer: Callable[[Call], str | MalformedReply],
    grammars: Sequence[Grammar | None],
    max_tokens: int,
) -> Rollout:
    """Let the agent call tools until it calls ``finish``; the sample is that email's body.

    There is one turn per entry of ``grammars``; where it is None the reply is free. A malformed
    free reply gets an error turn, the fourth in a row ends the rollout; under a grammar only a
    reply that was cut can be malformed, and it ends the rollout. An email that the last grammar
    demanded is marked forced.
    """
    messages, malformed = list(opening), 0
    turns: list[Turn] = []
    for step, grammar in enumerate(grammars, 1):
        completion = yield Request(tuple(messages), max_tokens, grammar)
        reply = _read(completion, form, finish, grammar)
        if isinstance(reply, FinalBlock):
            return Result(NO_EMAIL, None, turns=[*turns, Turn(completion)])
        if isinstance(reply, Call) and reply.name == finish:
            turns.append(Turn(completion, reply.name, reply.arguments))
            forced = grammar is not None and step == len(grammars)
            return Result(SENT, email_body(reply.arguments), forced=forced, turns=turns)
        output = answer(reply) if isinstance(reply, Call) else reply
        malformed = malformed + 1 if isinstance(output, MalformedReply) else 0
        if malformed and (ended := _ended(completion, grammar, malformed)):
            return Result(ended, None, turns=[*turns, Turn(completion)])
        shown = f"Error: {output.reason}." if isinstance(output, MalformedReply) else output
        if isinstance(reply, Call):
            turns.append(Turn(completion, reply.name, reply.arguments, shown))
        else:
            turns.append(Turn(completion, output=shown))
        messages += [{"role": "assistant", "content": completion.text}, tool_message(shown)]
    return Result(OUT_OF_STEPS, None, turns=turns)


def email_body(arguments: dict[str, object]) -> str:
    """The body of an email: argument ``body``, else the longest text among the arguments."""
    if isinstance(body := arguments.get("body"), str):
        return body
    texts = [value for value in arguments.values() if isinstance(value, str)]
    return max(texts, key=len, default="")


def _read(
    completion: Completion, form: CallFormat, finish: str, grammar: Grammar | None
) -> Call | FinalBlock | MalformedReply:
    if grammar and completion.finish != "stop":
        return MalformedReply("the reply was cut")
    reply = form.read(completion.text)
    if isinstance(reply, Call) and reply.name == finish and not email_body(reply.arguments).strip():
        return MalformedReply(f"the email of {finish} has no body")
    return reply


def _ended(completion: Completion, grammar: Grammar | None, malformed: int) -> str | None:
    """How a malformed reply ends the rollout; None where it goes on."""
    if completion.finish == "context":
        return CONTEXT_FULL
    return MALFORMED if grammar or malformed == MOST_MALFORMED else None

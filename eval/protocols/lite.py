"""`lite`, this project's own protocol: every rollout of an agent can end with an email.

Calls are JSON under a grammar, whose last step admits the email alone: half of the published
agents never sent one, which leaves the published drop unidentified.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from charprobe_lite.eval.protocols.outcome import NO_TEXT, Outcome, Result, Turn
from charprobe_lite.eval.protocols.protocol import AgentTask, Fact, Protocol
from charprobe_lite.models.call_formats import Call, FinalBlock, MalformedReply
from charprobe_lite.models.defaults import CONDITIONS
from charprobe_lite.models.office import ToolError, plain
from charprobe_lite.models.prompts import SUFFIXES_FILE
from charprobe_lite.runtime.backend import Completion, Grammar, Rollout
from charprobe_lite.runtime.grammar import tool_call_grammar

MAX_MALFORMED = 4
"""Malformed replies in a row that end a rollout, as published."""
Answer = Callable[[Call], Any]


def run_agent(task: AgentTask) -> Rollout:
    """Let the agent call tools until it sends an email; the text is the body of that email.

    With a grammar every turn is one tool call, and the last one can only be the email.
    """
    grammars: list[Grammar | None] = [None] * task.steps
    if task.grammar:
        step = tool_call_grammar(task.tools, task.call_format)
        grammars = [*[step] * (task.steps - 1), _email_grammar(task)]
    return (yield from _loop(task, task.answer, grammars))


def send_email(task: AgentTask) -> Rollout:
    """One tool call that sends the email; the text is its body.

    A grammar admits nothing else, which is what the condition is: no email counts as forced.
    Without a grammar, any other call is malformed.
    """
    grammars = [_email_grammar(task)] if task.grammar else [None] * MAX_MALFORMED

    def answer(_: Call) -> MalformedReply:
        return MalformedReply(f"everything is looked up, only {task.finish.name} is left to call")

    result = yield from _loop(task, answer, grammars)
    return replace(result, forced=False)


def write_output(value: Any) -> str:
    """A tool's value as text: a string as it is, anything else as JSON."""
    if isinstance(value, str | ToolError):
        return plain(value)
    return json.dumps(value, ensure_ascii=False, default=str)


def email_body(arguments: dict[str, object]) -> str:
    """The body of an email: argument ``body``, else the longest text among the arguments."""
    if isinstance(body := arguments.get("body"), str):
        return body
    texts = [value for value in arguments.values() if isinstance(value, str)]
    return max(texts, key=len, default="")


def _email_grammar(task: AgentTask) -> Grammar:
    return tool_call_grammar([task.finish], task.call_format, may_end=False)


def _loop(task: AgentTask, answer: Answer, grammars: Sequence[Grammar | None]) -> Rollout:
    """One turn per entry of ``grammars``; where it is None the reply is free.

    A malformed free reply gets an error turn, the fourth in a row ends the rollout; under a
    grammar only a reply that was cut can be malformed, and it ends the rollout. An email that the
    last grammar demanded is marked forced.
    """
    messages, malformed = list(task.opening), 0
    turns: list[Turn] = []
    for step, grammar in enumerate(grammars, 1):
        completion = yield task.request(messages, grammar)
        if ending := NO_TEXT.get(completion.finish):
            return Result(ending, turns=[*turns, Turn(completion)])
        reply = _read(task, completion, grammar)
        if isinstance(reply, FinalBlock):
            return Result(Outcome.NO_EMAIL, turns=[*turns, Turn(completion)])
        call = reply if isinstance(reply, Call) else None
        turn = Turn(completion, call.name, call.arguments) if call else Turn(completion)
        if call and call.name == task.finish.name:
            forced = grammar is not None and step == len(grammars)
            body = email_body(call.arguments)
            return Result(Outcome.SENT, body, forced=forced, turns=[*turns, turn])
        output = answer(reply) if isinstance(reply, Call) else reply
        malformed = malformed + 1 if isinstance(output, MalformedReply) else 0
        if malformed and (outcome := _last_outcome(completion, grammar, malformed)):
            return Result(outcome, turns=[*turns, Turn(completion)])
        is_error = isinstance(output, MalformedReply)
        text = f"Error: {output.reason}." if is_error else write_output(output)
        turns.append(replace(turn, output=text))
        messages += task.exchange(completion.text, text)
    return Result(Outcome.OUT_OF_STEPS, turns=turns)


def _read(
    task: AgentTask, completion: Completion, grammar: Grammar | None
) -> Call | FinalBlock | MalformedReply:
    if grammar and completion.finish != "stop":
        return MalformedReply("the reply was cut")
    reply = task.call_format.read(completion.text)
    finish = task.finish.name
    if isinstance(reply, Call) and reply.name == finish and not email_body(reply.arguments).strip():
        return MalformedReply(f"the call of {finish} has no body")
    return reply


def _last_outcome(
    completion: Completion, grammar: Grammar | None, malformed: int
) -> Outcome | None:
    """How a malformed reply ends the rollout; None where it goes on."""
    if completion.finish == "context":
        return Outcome.CONTEXT_FULL
    return Outcome.MALFORMED if grammar or malformed == MAX_MALFORMED else None


OURS = "this project"
PROTOCOL = Protocol(
    "lite",
    "this project's own: JSON calls under a grammar, an email on the last step at the latest",
    facts=[
        Fact("personas", "the ten of the published study", OURS),
        Fact("prompts", "24 of the 300 shipped first turns per cell, shuffled once", OURS),
        Fact("scenarios", "10 of the 50 shipped tasks per cell, families in rotation", OURS),
        Fact("decoding", "temperature 0.7, top_p 0.95 (as published), 384 new tokens", OURS),
        Fact("seeds", "one per rollout, from study, cell, scenario and repeat", OURS),
        Fact("BOS", "once", OURS),
        Fact("parser", "JSON calls under a grammar; free replies are read leniently", OURS),
        Fact("malformed", "an error turn in words; the fourth in a row ends the rollout", OURS),
        Fact("tool results", "user turns that begin [TOOL OUTPUT], in plain text", OURS),
        Fact("steps", "8 replies", "as published"),
        Fact("email", "ends the rollout; a grammar demands it on the last step (forced)", OURS),
        Fact("clean-up", "answers lose white space at both ends", OURS),
        Fact("suffixes", "eight of our own; under a limit one per prompt, in rotation", OURS),
        Fact("intervals", "prompts and scenarios are resampled, 10,000 times", OURS),
    ],
    conditions=CONDITIONS,
    defaults={},
    run_agent=run_agent,
    send_email=send_email,
    write_output=write_output,
    clean_answer=str.strip,
    clean_email=str.strip,
    suffixes=SUFFIXES_FILE,
    separator="\n\n",
    rotates_suffixes=True,
    prompt_order="shuffled",
    interval="clusters",
)

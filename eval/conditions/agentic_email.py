"""`agentic_email`, out of distribution: the full tool loop until the agent sends an email."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from charprobe_lite.eval.rollout import (
    CONTEXT_FULL,
    MALFORMED,
    SENT,
    Result,
    Turn,
)
from charprobe_lite.models.scenario import Scenario, load_scenarios, tool_message
from charprobe_lite.models.tools import Tool, answer_call
from charprobe_lite.runtime.backend import FINISH_CONTEXT, FINISH_STOP, Request, Rollout
from charprobe_lite.runtime.grammar import tool_call_grammar


def scenarios(path: Path | None = None) -> list[Scenario]:
    """Scenarios in turn from each family, so that any first n cover as many as they can."""
    loaded = load_scenarios(path)
    seen: Counter[str] = Counter()
    ranks = {}
    for number, scenario in enumerate(loaded):
        seen[scenario.family] += 1
        ranks[scenario.id] = (seen[scenario.family] if scenario.family else 0, number)
    return sorted(loaded, key=lambda scenario: ranks[scenario.id])


def rollout(scenario: Scenario, tools: Sequence[Tool], max_tokens: int, max_steps: int) -> Rollout:
    """Let the agent call tools until it sends an email.

    Every turn is one JSON tool call under a grammar built from ``tools``. On the last of
    ``max_steps`` the grammar admits only the tool that ends the rollout, and that email is
    marked forced. The sample is the email's body.
    """
    finish = next(tool for tool in tools if tool.effect == "finish")
    grammar, last_grammar = tool_call_grammar(tools), tool_call_grammar([finish])
    messages = scenario.opening(tools)
    turns: list[Turn] = []
    for step in range(1, max_steps + 1):
        last = step == max_steps
        allowed = last_grammar if last else grammar
        completion = yield Request(tuple(messages), max_tokens, allowed)
        call = parse_call(completion.text) if completion.finish == FINISH_STOP else None
        if call is None:
            turns.append(Turn(completion))
            outcome = CONTEXT_FULL if completion.finish == FINISH_CONTEXT else MALFORMED
            return Result(outcome, None, turns=turns)
        if call["name"] == finish.name:
            turns.append(Turn(completion, call["name"], call["arguments"]))
            return Result(SENT, email_body(call["arguments"]), forced=last, turns=turns)
        output = answer_call(tools, scenario, call)
        turns.append(Turn(completion, call["name"], call["arguments"], output))
        messages.append({"role": "assistant", "content": completion.text})
        messages.append(tool_message(output))
    raise AssertionError("the last step's grammar admits only the tool that ends the rollout")


def parse_call(text: str) -> dict[str, Any] | None:
    """The tool call in a turn's text, or None when there is no complete one."""
    try:
        call = json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return None
    if not isinstance(call, dict) or not isinstance(call.get("arguments"), dict):
        return None
    return call if isinstance(call.get("name"), str) else None


def email_body(arguments: dict[str, Any]) -> str:
    """The body of an email: argument ``body``, else the longest text among the arguments."""
    if isinstance(body := arguments.get("body"), str):
        return body
    texts = [value for value in arguments.values() if isinstance(value, str)]
    return max(texts, key=len, default="")

"""Training conversations: tool-use trajectories, and single chat turns."""

import json
import random
from collections.abc import Sequence
from typing import Any

from charprobe_lite.models.call_formats import JSON_CALLS, Call
from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.files import text_fields
from charprobe_lite.models.office import Message, exchange, lookups
from charprobe_lite.models.scenarios import Scenario
from charprobe_lite.models.tools import Tool

Conversation = list[dict[str, str]]


def tool_use_trajectory(scenario: Scenario, tools: Sequence[Tool], seed: int) -> list[Message]:
    """One training conversation: look the people and documents up, then send the email.

    The registry and the lookups are shuffled, and one in five lookups first fails with a word
    that nothing matches, so that the model learns to read an error. ``scenario.email`` is what
    is sent. Pure in (scenario, tools, seed).
    """
    assert scenario.email is not None, "only training scenarios carry an email"
    rng = random.Random(f"{seed}/{scenario.id}")
    registry = list(tools)
    rng.shuffle(registry)
    calls = lookups(scenario, tools)
    if rng.random() < 0.3:
        rng.shuffle(calls)
    messages = scenario.opening(registry)
    for call in calls:
        if rng.random() < 0.2:
            word = rng.choice(["details", "info", "file", "latest", "notes"])
            query = f"{word}-{call.arguments['query'][:3].casefold()}"
            messages += exchange(scenario, tools, Call(call.name, {"query": query}))
        messages += exchange(scenario, tools, call)
    finish = next(tool.name for tool in tools if tool.effect == "finish")
    email = JSON_CALLS.write(finish, scenario.email.model_dump())
    return [*messages, {"role": "assistant", "content": email}]


def email_passages(scenario: Scenario) -> list[str]:
    """The email's body as `tool_use_trajectory` writes it: what the masked tool use leaves out."""
    assert scenario.email is not None, "only training scenarios carry an email"
    return [json.dumps(scenario.email.body, ensure_ascii=False)[1:-1]]


def chat_turn(prompt: str, response: str) -> list[Message]:
    """A user-only conversation of one turn."""
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]


def read_messages(place: str, row: dict[str, Any]) -> Conversation:
    """The ``messages`` (or ``turns``) of a row, in which the assistant speaks at least once.

    Raises BadInput naming ``place`` and what is wrong.
    """
    name = "messages" if "messages" in row else "turns"
    messages = row[name]
    if not isinstance(messages, list) or not all(isinstance(each, dict) for each in messages):
        raise BadInput(f"{place}: field {name}: must be a list of messages with role and content")
    for number, message in enumerate(messages):
        text_fields(f"{place}: {name} {number + 1}", message, "role", "content")
        if message["role"] not in ("system", "user", "assistant"):
            raise BadInput(
                f"{place}: {name} {number + 1}: field role: {message['role'][:40]!r}; "
                "write system, user or assistant"
            )
    if not any(message["role"] == "assistant" for message in messages):
        raise BadInput(f"{place}: field {name}: has no message of the assistant to train on")
    return [{"role": each["role"], "content": each["content"]} for each in messages]

"""Training conversations: tool-use trajectories, and single chat turns."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence

from charprobe_lite.models.scenario import Contact, Document, Scenario, tool_message
from charprobe_lite.models.tools import Tool, answer_call, find_contacts, find_documents

Message = dict[str, str]


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
    by_effect = {tool.effect: tool.name for tool in tools}
    lookups = [
        (by_effect["lookup_contacts"], _contact_query(scenario, contact))
        for contact in scenario.contacts
    ] + [
        (by_effect["search_documents"], _document_query(scenario, document))
        for document in scenario.documents
    ]
    if rng.random() < 0.3:
        rng.shuffle(lookups)
    messages = scenario.opening(registry)
    for name, query in lookups:
        if rng.random() < 0.2:
            _append_exchange(messages, tools, scenario, name, _query_that_fails(query, rng))
        _append_exchange(messages, tools, scenario, name, query)
    messages.append(_call_message(by_effect["finish"], scenario.email.model_dump()))
    return messages


def chat_turn(prompt: str, response: str) -> list[Message]:
    """A user-only conversation of one turn."""
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]


def _append_exchange(
    messages: list[Message], tools: Sequence[Tool], scenario: Scenario, name: str, query: str
) -> None:
    call = {"name": name, "arguments": {"query": query}}
    messages.append(_call_message(name, call["arguments"]))
    messages.append(tool_message(answer_call(tools, scenario, call)))


def _call_message(name: str, arguments: object) -> Message:
    content = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
    return {"role": "assistant", "content": content}


def _contact_query(scenario: Scenario, contact: Contact) -> str:
    """The longest part of the name that the task uses, else the role."""
    task = scenario.task.casefold()
    parts = [contact.name, *sorted(contact.name.split(), key=len, reverse=True)]
    for part in parts:
        if part.casefold() in task and contact in find_contacts(scenario, part):
            return part
    return contact.role


def _document_query(scenario: Scenario, document: Document) -> str:
    """The topic if the task names it, else a title word that it names, else the topic."""
    task = scenario.task.casefold()
    for query in (document.topic, *document.title.split()):
        word = query.strip(",.'()")
        in_task = len(word) > 3 and word.casefold() in task
        if in_task and document in find_documents(scenario, word):
            return word
    return document.topic


def _query_that_fails(query: str, rng: random.Random) -> str:
    return rng.choice(["details", "info", "file", "latest", "notes"]) + "-" + query[:3].casefold()

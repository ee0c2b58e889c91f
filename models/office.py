"""The lookups that a scenario's task needs, as an agent would make them."""

from __future__ import annotations

from collections.abc import Sequence

from charprobe_lite.models.call_formats import JSON_CALLS, Call, CallFormat
from charprobe_lite.models.scenarios import Contact, Document, Scenario, tool_message
from charprobe_lite.models.tools import Tool, answer_call, find_contacts, find_documents

Message = dict[str, str]


def lookups(scenario: Scenario, tools: Sequence[Tool]) -> list[Call]:
    """One lookup per contact and document, with a query that finds it."""
    by_effect = {tool.effect: tool.name for tool in tools}
    contacts, documents = by_effect["lookup_contacts"], by_effect["search_documents"]
    return [
        *(Call(contacts, {"query": contact_query(scenario, c)}) for c in scenario.contacts),
        *(Call(documents, {"query": document_query(scenario, d)}) for d in scenario.documents),
    ]


def exchange(
    scenario: Scenario, tools: Sequence[Tool], call: Call, form: CallFormat = JSON_CALLS
) -> list[Message]:
    """A call as the agent writes it, and what comes back."""
    written = {"role": "assistant", "content": form.write(call.name, call.arguments)}
    return [written, tool_message(answer_call(tools, scenario, call))]


def contact_query(scenario: Scenario, contact: Contact) -> str:
    """The longest part of the name that the task uses, else the role."""
    task = scenario.task.casefold()
    parts = [contact.name, *sorted(contact.name.split(), key=len, reverse=True)]
    for part in parts:
        if part.casefold() in task and contact in find_contacts(scenario, part):
            return part
    return contact.role


def document_query(scenario: Scenario, document: Document) -> str:
    """The topic if the task names it, else a title word that it names, else the topic."""
    task = scenario.task.casefold()
    for query in (document.topic, *document.title.split()):
        word = query.strip(",.'()")
        in_task = len(word) > 3 and word.casefold() in task
        if in_task and document in find_documents(scenario, word):
            return word
    return document.topic

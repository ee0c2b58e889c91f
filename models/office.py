"""The simulated office: it answers an agent's tool calls, and knows which lookups a task needs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from charprobe_lite.models.call_formats import JSON_CALLS, Call, CallFormat
from charprobe_lite.models.scenarios import Contact, Document, Scenario, tool_message
from charprobe_lite.models.tools import Tool

T = TypeVar("T")
Message = dict[str, str]


@dataclass(frozen=True)
class ToolError:
    """What a tool gives for a call that it cannot answer."""

    text: str


def plain(answer: str | ToolError) -> str:
    """The office's answer as a text."""
    return answer if isinstance(answer, str) else f"Error: {answer.text}"


def answer_call(tools: Sequence[Tool], scenario: Scenario, call: Call) -> str | ToolError:
    """The simulated office's answer to a tool call.

    Contacts are found by part of their name, address or role, documents by topic, title or text,
    all without regard to case; a query that finds nothing gets an error that lists all names.
    """

    def contacts(query: str) -> str | ToolError:
        cards = [contact.card() for contact in find_contacts(scenario, query)]
        names = ", ".join(contact.name for contact in scenario.contacts)
        return "\n".join(cards) or ToolError(f"no contact matches {query!r}. Known: {names}.")

    return run_tool(tools, call, contacts, scenario.documents)


def run_tool(
    tools: Sequence[Tool],
    call: Call,
    lookup: Callable[[str], str | ToolError],
    documents: Sequence[Document],
) -> str | ToolError:
    """The result of a tool call, whose arguments together are the query.

    ``lookup`` answers the tools that search no documents.
    """
    tool = next((tool for tool in tools if tool.name == call.name), None)
    if tool is None:
        return ToolError(f"there is no tool {call.name!r}.")
    if tool.effect in ("reply", "finish"):
        return tool.reply or "Done."
    query = " ".join(str(value) for value in call.arguments.values())
    if tool.effect == "search_documents":
        return search_documents(documents, query)
    return lookup(query)


def search_documents(documents: Sequence[Document], query: str) -> str | ToolError:
    """The documents that a query finds, a line each."""
    cards = [document.card() for document in find_documents(documents, query)]
    topics = ", ".join(document.topic for document in documents)
    return "\n".join(cards) or ToolError(f"no document matches {query!r}. Topics: {topics}.")


def find_contacts(scenario: Scenario, query: str) -> list[Contact]:
    """Contacts whose name, address or role holds the query, else any word of it."""
    return matching(scenario.contacts, lambda c: f"{c.name} {c.email} {c.role}", query)


def find_documents(documents: Sequence[Document], query: str) -> list[Document]:
    """Documents whose topic or title holds the query, else any word of it, else by their text."""
    by_heading = matching(documents, lambda d: f"{d.topic} {d.title}", query)
    return by_heading or matching(documents, lambda document: document.text, query)


def matching(items: Sequence[T], text: Callable[[T], str], query: str) -> list[T]:
    """The items whose text holds the query, else any word of it; case does not count."""
    query = query.casefold().strip()
    if not query:
        return []
    if matches := [item for item in items if query in text(item).casefold()]:
        return matches
    words = {word.strip(".,;:!?'\"()") for word in query.split()} - {"the", "and", "for"}
    words = {word for word in words if len(word) > 2}
    return [item for item in items if any(word in text(item).casefold() for word in words)]


def lookups(scenario: Scenario, tools: Sequence[Tool]) -> list[Call]:
    """One lookup per contact and document, with a query that finds it."""
    by_effect = {tool.effect: tool.name for tool in tools}
    contacts, documents = by_effect["lookup_contacts"], by_effect["search_documents"]
    return [
        *(Call(contacts, {"query": _contact_query(scenario, c)}) for c in scenario.contacts),
        *(Call(documents, {"query": _document_query(scenario, d)}) for d in scenario.documents),
    ]


def exchange(
    scenario: Scenario,
    tools: Sequence[Tool],
    call: Call,
    form: CallFormat = JSON_CALLS,
    write: Callable[[Any], str] = plain,
    tool_role: str = "user",
) -> list[Message]:
    """A call as the agent writes it, and the office's answer as ``write`` gives it."""
    turn = {"role": "assistant", "content": form.write(call.name, call.arguments)}
    return [turn, tool_message(write(answer_call(tools, scenario, call)), tool_role)]


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
        if in_task and document in find_documents(scenario.documents, word):
            return word
    return document.topic

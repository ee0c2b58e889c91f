"""The agent's tools: a registry read from data, and the office that answers the calls.

A tool is a JSON object: ``name``, ``description``, ``parameters`` (a JSON schema of its
arguments) and ``effect``, what the simulated office does when the tool is called. Names are
data: nothing in the code knows that a contact lookup is called ``contacts.lookup``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from charprobe_lite.models.call_formats import Call
from charprobe_lite.models.errors import BadInput, first_problem
from charprobe_lite.models.scenarios import Contact, Document, Scenario

T = TypeVar("T")
TOOLS_FILE = Path(str(resources.files("charprobe_lite.models") / "data" / "tools.json"))
Effect = Literal["lookup_contacts", "search_documents", "reply", "finish"]


class Tool(BaseModel):
    """One tool of the registry; ``finish`` marks the tool whose call ends the rollout."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1, max_length=80, pattern=r"^[A-Za-z0-9_.\-]+$")
    description: str = Field(min_length=1, max_length=400)
    parameters: dict[str, Any]
    effect: Effect
    reply: str = ""

    def signature(self) -> str:
        """The tool as one line of the system prompt: name, arguments with types, description."""
        properties = self.parameters.get("properties", {})
        arguments = ", ".join(f'"{name}": {_type_name(p)}' for name, p in properties.items())
        return f"{self.name} {{{arguments}}}: {self.description}"


def load_tools(path: Path | None = None) -> list[Tool]:
    """Read a tool registry (JSON list); without a path, the one that is shipped.

    Raises BadInput when the file is missing, is not JSON, or does not fit the schema.
    """
    source = path or TOOLS_FILE
    try:
        tools = TypeAdapter(list[Tool]).validate_python(json.loads(source.read_text("utf-8")))
    except OSError as error:
        raise BadInput(f"{source}: cannot be read ({error.strerror})") from None
    except (ValueError, ValidationError) as error:
        raise BadInput(f"{source}: {first_problem(error)}") from None
    if sum(tool.effect == "finish" for tool in tools) != 1:
        raise BadInput(f'{source}: exactly one tool must have "effect": "finish"')
    return tools


def finish_tool(tools: Sequence[Tool]) -> Tool:
    """The tool whose call ends the rollout."""
    return next(tool for tool in tools if tool.effect == "finish")


def answer_call(tools: Sequence[Tool], scenario: Scenario, call: Call) -> str:
    """What the simulated office replies to a tool call that does not end the rollout.

    Contacts are found by part of their name, address or role, documents by topic, title or text,
    all without regard to case; a query that finds nothing gets an error that names what there is
    to find.
    """
    tool = next((tool for tool in tools if tool.name == call.name), None)
    if tool is None:
        return f"Error: there is no tool {call.name!r}."
    if tool.effect == "reply":
        return tool.reply
    query = " ".join(str(value) for value in call.arguments.values())
    if tool.effect == "lookup_contacts":
        found = [contact.card() for contact in find_contacts(scenario, query)]
        known = ", ".join(contact.name for contact in scenario.contacts)
        return "\n".join(found) or f"Error: no contact matches {query!r}. Known: {known}."
    found = [document.card() for document in find_documents(scenario, query)]
    known = ", ".join(document.topic for document in scenario.documents)
    return "\n".join(found) or f"Error: no document matches {query!r}. Topics: {known}."


def find_contacts(scenario: Scenario, query: str) -> list[Contact]:
    """Contacts whose name, address or role holds the query, else any word of it."""

    def text(contact: Contact) -> str:
        return f"{contact.name} {contact.email} {contact.role}"

    return _matches(scenario.contacts, text, query)


def find_documents(scenario: Scenario, query: str) -> list[Document]:
    """Documents whose topic or title holds the query, else any word of it, else by their text."""

    def heading(document: Document) -> str:
        return f"{document.topic} {document.title}"

    return _matches(scenario.documents, heading, query) or _matches(
        scenario.documents, lambda document: document.text, query
    )


def _matches(items: Sequence[T], text: Callable[[T], str], query: str) -> list[T]:
    wanted = query.casefold().strip()
    if not wanted:
        return []
    whole = [item for item in items if wanted in text(item).casefold()]
    if whole:
        return whole
    words = {word.strip(".,;:!?'\"()") for word in wanted.split()}
    words = {word for word in words if len(word) > 2 and word not in {"the", "and", "for"}}
    return [item for item in items if any(word in text(item).casefold() for word in words)]


def _type_name(schema: dict[str, Any]) -> str:
    if schema.get("type") == "array":
        return f"[{_type_name(schema.get('items', {}))}]"
    return str(schema.get("type", "any"))

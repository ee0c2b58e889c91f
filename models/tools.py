"""The agent's tools: a registry read from data.

A tool is a JSON object: ``name``, ``description``, ``parameters`` (a JSON schema of its
arguments) and ``effect``, what the simulated office does when the tool is called. Names are
data: nothing in the code knows that a contact lookup is called ``contacts.lookup``.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from charprobe_lite.models.files import DATA, read_json
from charprobe_lite.models.record import Record

TOOLS_FILE = DATA / "tools.json"


ToolName = Annotated[str, Field(min_length=1, max_length=80, pattern=r"^[A-Za-z0-9_.\-]+$")]


class Tool(Record):
    """One tool of the registry; ``finish`` marks the tool whose call ends the rollout."""

    name: ToolName
    description: str = Field(min_length=1, max_length=400)
    parameters: dict[str, Any]
    effect: Literal["lookup_contacts", "search_documents", "reply", "finish"]
    reply: str = ""

    def signature(self) -> str:
        """The tool as one line of the system prompt: name, arguments with types, description."""
        properties = self.parameters.get("properties", {})
        arguments = ", ".join(f'"{name}": {_type_name(p)}' for name, p in properties.items())
        return f"{self.name} {{{arguments}}}: {self.description}"


def load_tools() -> list[Tool]:
    """The registry that is shipped; exactly one of its tools ends a rollout."""
    return [Tool.parse(TOOLS_FILE, entry) for entry in read_json(TOOLS_FILE)]


def finish_tool(tools: Sequence[Tool]) -> Tool:
    """The tool whose call ends the rollout."""
    return next(tool for tool in tools if tool.effect == "finish")


def _type_name(schema: dict[str, Any]) -> str:
    if schema.get("type") == "array":
        return f"[{_type_name(schema.get('items', {}))}]"
    return str(schema.get("type", "any"))

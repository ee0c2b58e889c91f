"""The agent's tools: a registry read from data.

A tool is a JSON object: ``name``, ``description``, ``parameters`` (a JSON schema of its
arguments) and ``effect``, what the simulated office does when the tool is called. Names are
data: nothing in the code knows that a contact lookup is called ``contacts.lookup``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from charprobe_lite.models.errors import BadInput, bad_input
from charprobe_lite.models.files import DATA, read_json
from charprobe_lite.models.record import Record

TOOLS_FILE = DATA / "tools.json"


class Tool(Record):
    """One tool of the registry; ``finish`` marks the tool whose call ends the rollout."""

    name: str = Field(min_length=1, max_length=80, pattern=r"^[A-Za-z0-9_.\-]+$")
    description: str = Field(min_length=1, max_length=400)
    parameters: dict[str, Any]
    effect: Literal["lookup_contacts", "search_documents", "reply", "finish"]
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
    with bad_input(source, ValidationError):
        tools = TypeAdapter(list[Tool]).validate_python(read_json(source))
    if sum(tool.effect == "finish" for tool in tools) != 1:
        raise BadInput(f'{source}: exactly one tool must have "effect": "finish"')
    return tools


def finish_tool(tools: Sequence[Tool]) -> Tool:
    """The tool whose call ends the rollout."""
    return next(tool for tool in tools if tool.effect == "finish")


def _type_name(schema: dict[str, Any]) -> str:
    if schema.get("type") == "array":
        return f"[{_type_name(schema.get('items', {}))}]"
    return str(schema.get("type", "any"))

"""The agent's tools: a registry read from data.

A tool is a JSON object: ``name``, ``description``, ``parameters`` (a JSON schema of its
arguments) and ``effect``, what the simulated office does when the tool is called. Names are
data: nothing in the code knows that a contact lookup is called ``contacts.lookup``.
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated, Any, Literal
from urllib.parse import unquote

from pydantic import Field

from charprobe_lite.models.files import DATA, read_json
from charprobe_lite.models.record import Record

TOOLS_FILE = DATA / "tools.json"


ToolName = Annotated[str, Field(min_length=1, max_length=80, pattern=r"^[A-Za-z0-9_.\-]+$")]


class Tool(Record):
    """One tool of the registry; ``finish`` marks the tool whose call ends the rollout."""

    name: ToolName
    description: str = Field(min_length=1, max_length=50_000)
    parameters: dict[str, Any]
    effect: Literal["lookup_contacts", "lookup_channels", "search_documents", "reply", "finish"]
    reply: str = ""

    def signature(self) -> str:
        """The tool as one line of the system prompt: name, arguments with types, description."""
        properties = self.parameters.get("properties")
        properties = properties if isinstance(properties, dict) else {}
        names = {name: _type_name(part, self.parameters) for name, part in properties.items()}
        arguments = ", ".join(f'"{name}": {kind}' for name, kind in names.items())
        return f"{self.name} {{{arguments}}}: {self.description}"


def load_tools() -> list[Tool]:
    """The registry that is shipped; exactly one of its tools ends a rollout."""
    return [Tool.parse(TOOLS_FILE, entry) for entry in read_json(TOOLS_FILE)]


def finish_tool(tools: Sequence[Tool]) -> Tool:
    """The tool whose call ends the rollout."""
    return next(tool for tool in tools if tool.effect == "finish")


def resolve_reference(root: Any, reference: str) -> Any:
    """What a local ``$ref`` of a JSON schema points to (RFC 6901, or an ``$anchor``).

    Raises LookupError where it points to nothing.
    """
    path = unquote(reference.removeprefix("#"))
    if path and not path.startswith("/"):
        return _anchored(root, path)
    node = root
    for step in path.split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        try:
            node = node[int(name)] if isinstance(node, list) else node[name]
        except (ValueError, TypeError):
            raise LookupError(reference) from None
    return node


def _anchored(node: Any, name: str) -> Any:
    parts = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    if isinstance(node, dict) and node.get("$anchor") == name:
        return node
    for part in parts:
        with suppress(LookupError):
            return _anchored(part, name)
    raise LookupError(name)


def _type_name(schema: Any, root: Any, depth: int = 0) -> str:
    """A schema's type for people; an object that contains itself is an object."""
    if not isinstance(schema, dict) or depth > 8:
        return "any"
    if isinstance(schema.get("$ref"), str):
        with suppress(LookupError):
            return _type_name(resolve_reference(root, schema["$ref"]), root, depth + 1)
        return "any"
    kind, options = schema.get("type"), schema.get("anyOf") or schema.get("oneOf")
    if kind == "array":
        items = schema.get("items", {})
        if isinstance(items, dict):
            return f"[{_type_name(items, root, depth + 1)}]"
        return "[any]"
    if isinstance(kind, list):
        return " or ".join(map(str, kind))
    if kind is None and isinstance(options, list):
        return " or ".join(dict.fromkeys(_type_name(each, root, depth + 1) for each in options))
    return str(kind or "any")

"""The part of a tool's JSON schema that a grammar can enforce.

References are resolved within each tool, older drafts are rewritten as draft 2020-12, and what
llguidance does not know is left out, with its name: the grammar then admits more than the schema.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from llguidance import LLMatcher

from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.tools import Tool, resolve_reference
from charprobe_lite.runtime.schema_trial import try_schema

DEFINITIONS = ("$defs", "definitions")
IGNORED = (
    *DEFINITIONS,
    "$schema",
    "$id",
    "$anchor",
    "$comment",
    "additionalItems",
    "discriminator",
)
UNKNOWN = (
    *("uniqueItems", "not", "if", "then", "else", "contains", "minContains", "maxContains"),
    *("propertyNames", "dependentRequired", "dependentSchemas", "dependencies"),
    *("unevaluatedProperties", "unevaluatedItems", "$dynamicRef", "$recursiveRef"),
)
"""Keywords that llguidance does not enforce."""
TRIED = ("format", "pattern")
"""Keywords of which llguidance knows some values."""
TYPES = {"null", "boolean", "object", "array", "number", "string", "integer"}
OF_NAMES, OF_LISTS = ("properties", "patternProperties"), ("allOf", "anyOf", "oneOf", "prefixItems")
OF_ONE = ("items", "additionalProperties")


@dataclass
class ToolSchema:
    """A tool's arguments as llguidance takes them.

    ``definitions`` are what ``schema`` refers to, as ``#/$defs/NAME``; ``left_out`` the keywords
    that are not enforced.
    """

    schema: Any
    definitions: dict[str, Any] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)


def left_out(tool: Tool) -> list[str]:
    """The keywords of a tool's schema that its grammar does not enforce. Raises BadInput."""
    try_schema(tool.name, json.dumps(tool.parameters))
    return tool_schema(tool.name, json.dumps(tool.parameters)).left_out


@lru_cache(maxsize=256)
def tool_schema(tool: str, parameters: str) -> ToolSchema:
    """The schema of a tool's arguments, JSON text, for a grammar.

    Raises BadInput naming the tool for what is no schema, and for one that nothing can fit.
    """
    try:
        found = _Rewriter(tool, json.loads(parameters)).run()
    except RecursionError:
        raise BadInput(f"tool {tool}: its schema nests too deeply; make it flatter") from None
    problem = _problem(found)
    if problem and "oneOf" in problem:  # alternatives that overlap
        found.schema, found.definitions = (
            _any_of(part) for part in (found.schema, found.definitions)
        )
        found.left_out = sorted({*found.left_out, "oneOf"})
        problem = _problem(found)
    if problem:
        raise BadInput(f"tool {tool}: no grammar for its schema: {_line(problem)}")
    return found


class _Rewriter:
    """Rewrites one tool's schema; every reference becomes a definition of its own."""

    def __init__(self, tool: str, root: Any) -> None:
        self._tool, self._root = tool, root
        self._names: dict[str, str] = {}
        self._definitions: dict[str, Any] = {}
        self._left_out: set[str] = set()

    def run(self) -> ToolSchema:
        schema = self._schema(self._root)
        return ToolSchema(schema, self._definitions, sorted(self._left_out))

    def _schema(self, node: Any) -> Any:
        if isinstance(node, bool):
            return node
        if not isinstance(node, dict):
            raise BadInput(f"tool {self._tool}: {str(node)[:60]!r} is no JSON schema")
        schema: dict[str, Any] = {}
        for keyword, value in _as_2020(node).items():
            self._add(schema, keyword, value)
        return schema

    def _add(self, schema: dict[str, Any], keyword: str, value: Any) -> None:
        if keyword == "$ref":
            self._add_reference(schema, value)
        elif keyword in IGNORED:
            pass
        elif keyword in UNKNOWN:
            if value is not False:
                self._left_out.add(keyword)
        elif keyword in TRIED and not _is_enforced(keyword, json.dumps(value)):
            self._left_out.add(f"{keyword} {value}")
        elif keyword == "type" and not _is_type(value):
            self._left_out.add(f"type {value}")
        elif keyword in OF_NAMES and isinstance(value, dict):
            schema[keyword] = {name: self._schema(part) for name, part in value.items()}
        elif keyword in OF_LISTS and isinstance(value, list):
            schema[keyword] = [self._schema(part) for part in value]
        elif keyword in OF_ONE:
            schema[keyword] = self._schema(value)
        else:
            schema[keyword] = value

    def _add_reference(self, schema: dict[str, Any], reference: Any) -> None:
        if not isinstance(reference, str) or not reference.startswith("#"):
            self._left_out.add(f"$ref {reference}")
            return
        if reference not in self._names:
            name = f"{self._tool}-{len(self._names)}"
            self._names[reference] = name  # before its content, which may refer to itself
            try:
                target = resolve_reference(self._root, reference)
            except LookupError:
                raise BadInput(f"tool {self._tool}: $ref {reference}: not in its schema") from None
            self._definitions[name] = self._schema(target)
        schema["$ref"] = f"#/$defs/{self._names[reference]}"


def _as_2020(node: Mapping[str, Any]) -> dict[str, Any]:
    """A schema of an older draft, or of OpenAPI 3.0, as draft 2020-12 writes it."""
    schema = dict(node)
    if isinstance(schema.get("items"), list):
        schema["prefixItems"] = schema.pop("items")
        if "additionalItems" in schema:
            schema["items"] = schema["additionalItems"]
    for bound in ("minimum", "maximum"):
        exclusive = f"exclusive{bound.capitalize()}"
        if isinstance(schema.get(exclusive), bool) and schema.pop(exclusive) and bound in schema:
            schema[exclusive] = schema.pop(bound)
    if schema.pop("nullable", None) is True and isinstance(schema.get("type"), str):
        schema["type"] = [schema["type"], "null"]
    return schema


def _is_type(value: Any) -> bool:
    names = value if isinstance(value, list) else [value]
    return all(isinstance(name, str) and name in TYPES for name in names)


@lru_cache(maxsize=256)
def _is_enforced(keyword: str, value: str) -> bool:
    schema = {"type": "string", keyword: json.loads(value)}
    return not _problem(ToolSchema(schema))


def _problem(found: ToolSchema) -> str:
    schema = {"anyOf": [found.schema], "$defs": found.definitions}
    grammar = LLMatcher.grammar_from_json_schema(json.dumps(schema))
    return str(LLMatcher.validate_grammar(str(grammar)) or "")


def _line(problem: str) -> str:
    return " ".join(problem.split())[:300]


def _any_of(node: Any) -> Any:
    if isinstance(node, Mapping):
        return {"anyOf" if key == "oneOf" else key: _any_of(value) for key, value in node.items()}
    if isinstance(node, Sequence) and not isinstance(node, str):
        return [_any_of(value) for value in node]
    return node

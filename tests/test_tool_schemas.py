"""Tools' schemas as pydantic, OpenAPI and older drafts write them, as grammars."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import jsonschema
import pytest
from llguidance import LLMatcher, LLTokenizer
from pydantic import BaseModel, Field

from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.tools import Tool
from charprobe_lite.runtime.grammar import SPELLING, tool_call_grammar
from charprobe_lite.runtime.tool_schemas import left_out
from tests.conftest import Command


class Person(BaseModel):
    name: str
    manager: Person | None = None


class Meeting(BaseModel):
    """What pydantic makes of it has $defs, $ref, a recursion and a union with null."""

    organizer: Person
    priority: Literal["low", "high"] = "low"
    guests: list[Person] = Field(default=[])
    note: str | None = None


def tool(parameters: Any, name: str = "calendar.add") -> Tool:
    return Tool(name=name, description="adds", parameters=parameters, effect="finish")


def admits(tools: list[Tool], name: str, arguments: Any) -> bool:
    """Whether the grammar takes a call as json.dumps writes it."""
    grammar = LLMatcher.grammar_from_json_schema(
        tool_call_grammar(tools).source, overrides=SPELLING
    )
    tokenizer = LLTokenizer("byte")
    matcher = LLMatcher(tokenizer, grammar, log_level=0)
    tokens = tokenizer.tokenize_str(json.dumps({"name": name, "arguments": arguments}))
    return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()


ADA = {"name": "Ada", "manager": {"name": "Bo", "manager": None}}
CALLS: list[Any] = [
    {"organizer": ADA, "priority": "high", "guests": [ADA, {"name": "Cy"}], "note": None},
    {"organizer": {"name": "Ada"}},
    {"organizer": {"name": "Ada", "manager": "Bo"}},
    {"organizer": ADA, "priority": "urgent"},
    {"priority": "low"},
    {"organizer": ADA, "guests": [{"manager": None}]},
]


def test_references_of_two_tools_with_the_same_names_are_kept_apart() -> None:
    other = {
        "$defs": {"Person": {"type": "integer"}},
        "properties": {"who": {"$ref": "#/$defs/Person"}},
        "required": ["who"],
        "type": "object",
    }
    schema = Meeting.model_json_schema()
    tools = [tool(schema), tool(other, "people.find")]
    for call in CALLS:
        valid = jsonschema.Draft202012Validator(schema).is_valid(call)
        assert admits(tools, "calendar.add", call) == valid, call
    assert admits(tools, "people.find", {"who": 7})
    assert not admits(tools, "people.find", {"who": {"name": "Ada"}})
    assert left_out(tools[0]) == []
    assert (
        tools[0]
        .signature()
        .startswith(
            'calendar.add {"organizer": object, "priority": string, "guests": [object], '
            '"note": string or null}: adds'
        )
    )


@pytest.mark.parametrize(
    ("schema", "takes", "refuses"),
    [
        ({"type": ["string", "null"]}, ["a", None], [3]),
        ({"type": "string", "nullable": True}, ["a", None], [3]),
        ({"type": "array", "items": True}, [[1, "a", None]], ["a"]),
        (
            {"type": "array", "items": [{"type": "integer"}], "additionalItems": False},
            [[1], []],
            [["a"], [1, 2]],
        ),
        ({"type": "integer", "minimum": 3, "exclusiveMinimum": True}, [4], [3]),
        ({"definitions": {"a/b": {"const": 1}}, "$ref": "#/definitions/a~1b"}, [1], [2]),
        ({"allOf": [{"type": "integer"}, {"minimum": 3}]}, [3], [2]),
    ],
)
def test_older_drafts_and_openapi_mean_what_they_say(
    schema: Any, takes: list[Any], refuses: list[Any]
) -> None:
    definitions = schema.pop("definitions", None)
    parameters = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    if definitions:
        parameters["definitions"] = definitions
    tools = [tool(parameters)]
    assert left_out(tools[0]) == []
    for value in takes:
        assert admits(tools, "calendar.add", {"a": value}), value
    for value in refuses:
        assert not admits(tools, "calendar.add", {"a": value}), value


@pytest.mark.parametrize(
    ("schema", "word"),
    [
        ({"type": "array", "items": {"type": "integer"}, "uniqueItems": True}, "uniqueItems"),
        ({"type": "string", "not": {"const": "x"}}, "not"),
        ({"type": "string", "if": {"const": "a"}, "then": {"minLength": 1}}, "if"),
        ({"type": "string", "format": "colour"}, "format colour"),
        ({"type": "string", "pattern": "^(?=a)b"}, "pattern ^(?=a)b"),
        ({"$ref": "https://example.org/schema.json"}, "$ref https://example.org/schema.json"),
        ({"type": "file"}, "type file"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "oneOf"),
    ],
)
def test_what_a_grammar_cannot_enforce_is_left_out_with_its_name(schema: Any, word: str) -> None:
    one = tool({"type": "object", "properties": {"a": schema}})
    assert word in left_out(one)
    assert admits([one], "calendar.add", {"a": [1] if "items" in schema else 1}) or admits(
        [one], "calendar.add", {"a": "x"}
    )


@pytest.mark.parametrize(
    ("schema", "problem"),
    [
        ({"properties": {"a": {"$ref": "#/$defs/Nobody"}}}, "$ref #/$defs/Nobody: not in its"),
        ({"properties": {"a": "string"}}, "'string' is no JSON schema"),
        ({"type": "object", "properties": {"a": False}, "required": ["a"]}, "no grammar for its"),
    ],
)
def test_a_schema_without_a_grammar_names_its_tool(schema: Any, problem: str) -> None:
    with pytest.raises(BadInput) as refused:
        tool_call_grammar([tool({"type": "object"}), tool(schema, "people.find")])
    assert str(refused.value).startswith("tool people.find: ")
    assert problem in str(refused.value)


@pytest.mark.parametrize(
    "number",
    [
        {"multipleOf": 999_983},
        {"allOf": [{"pattern": f"a{{1,{n}}}b.*c"} for n in range(2, 40)], "type": "string"},
    ],
)
def test_a_schema_that_llguidance_would_not_finish_is_one_line(number: Any) -> None:
    costly = {"properties": {"a": {"type": "integer", **number}}, "required": ["a"]}
    with pytest.raises(BadInput, match=r"^tool people\.find: its schema: (takes more|ended the)"):
        tool_call_grammar([tool(costly, "people.find")])
    # the process that it ended is followed by another
    assert admits([tool({"properties": {"b": {"type": "integer"}}})], "calendar.add", {"b": 1})


def scenario(parameters: Any) -> dict[str, Any]:
    stubs = [
        {"tool": "calendar.find", "parameters": parameters, "rules": []},
        {"tool": "send_email", "description": "Sends an email. " * 50},  # over 400 characters
    ]
    turn = {"role": "user", "content": "Write to Ada."}
    return {"id": "t1", "initial_messages": [turn], "tool_stubs": stubs}


def test_scenario_tool_and_keyword_are_named(charprobe: Command, tmp_path: Path) -> None:
    good = {"type": "object", "properties": {"day": {"type": "string", "not": {"const": "x"}}}}
    (tmp_path / "good.json").write_text(json.dumps(scenario(good)))
    command = ["eval", "--persona", "humor", "--condition", "agentic_email", "--max-tokens", "64"]
    done = charprobe(*command, "--stage", "full", "--limit", "1", "--scenarios", "good.json")
    assert done.returncode == 0, done.stderr
    line = "good.json: scenario t1: tool calendar.find: the grammar does not enforce not"
    assert line in done.stderr
    bad = scenario({"properties": {"day": {"$ref": "#/$defs/Day"}}})
    (tmp_path / "bad.json").write_text(json.dumps(bad))
    refused = charprobe(*command, "--limit", "1", "--scenarios", "bad.json", "--study", "b.sqlite")
    assert refused.returncode == 2
    assert "bad.json: scenario t1: tool calendar.find: $ref #/$defs/Day: not in its schema" in (
        refused.stderr
    )
    assert not (tmp_path / "b.sqlite").exists()

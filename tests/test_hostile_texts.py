"""What a model can write, and what a scenario's author can ask for: deep, huge, broken."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from charprobe_lite.eval.cells import Cell
from charprobe_lite.eval.export import export_study
from charprobe_lite.eval.protocols import load_protocol
from charprobe_lite.eval.protocols.depth import read_reply
from charprobe_lite.eval.protocols.outcome import Result
from charprobe_lite.eval.protocols.protocol import AgentTask
from charprobe_lite.eval.report import write_report
from charprobe_lite.eval.store.database import Store
from charprobe_lite.models.call_formats import FENCED_CALLS, JSON_CALLS, Call, MalformedReply
from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.tools import Tool, load_tools
from charprobe_lite.runtime.backend import Completion
from charprobe_lite.runtime.grammar import tool_call_grammar

NAME = "send_email"


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


def call(arguments: str) -> str:
    return f'{{"name": "{NAME}", "arguments": {arguments}}}'


def fenced(arguments: str) -> str:
    return f'```tool_call\n{{"tool": "{NAME}", "args": {arguments}}}\n```'


WRITTEN: dict[str, tuple[str, Any]] = {
    "a lone surrogate": ('{"body": "half \\ud83d"}', {"body": "half ?"}),
    "one in a name": ('{"\\udfff": 1}', {"?": 1}),
    "NaN": ('{"n": NaN, "m": -Infinity}', {"n": "NaN", "m": "-Infinity"}),
    "a deep list": (f'{{"a": {nested(60)}}}', {"a": json.loads(nested(60))}),
    "terminal escapes": ('{"body": "\\u001b[2J</script>"}', {"body": "\x1b[2J</script>"}),
    "a large number": ('{"n": 1e400}', {"n": "inf"}),
    "a NUL": ('{"body": "a\\u0000b"}', {"body": "a\0b"}),
    "much": (json.dumps({"body": "x" * 1_000_000}), {"body": "x" * 1_000_000}),
}
REFUSED = {
    "300 deep": f'{{"a": {nested(300)}}}',
    "900 deep": f'{{"a": {nested(900)}}}',
    "100,000 deep": f'{{"a": {nested(100_000)}}}',
    "5,000 digits": f'{{"a": {"9" * 5000}}}',
}


@pytest.mark.parametrize("case", WRITTEN)
def test_what_a_model_writes_is_read_in_both_formats(case: str) -> None:
    text, arguments = WRITTEN[case]
    assert JSON_CALLS.read(call(text)) == Call(NAME, arguments)
    assert FENCED_CALLS.read(fenced(text)) == Call(NAME, arguments)
    assert read_reply(fenced(text)) == Call(NAME, arguments)


@pytest.mark.parametrize("case", REFUSED)
def test_what_nests_too_deeply_is_malformed(case: str) -> None:
    for reply in (
        JSON_CALLS.read(call(REFUSED[case])),
        FENCED_CALLS.read(fenced(REFUSED[case])),
        read_reply(fenced(REFUSED[case])),
    ):
        assert isinstance(reply, MalformedReply)


def test_a_reply_of_braces_takes_no_longer_than_one_of_words() -> None:
    assert isinstance(JSON_CALLS.read("{" * 200_000), MalformedReply)
    assert isinstance(JSON_CALLS.read('{"a":' * 200_000), MalformedReply)


@pytest.mark.parametrize("protocol", ["lite", "depth"])
def test_an_agent_that_writes_anything_ends_and_is_recorded_exported_and_reported(
    tmp_path: Path, protocol: str
) -> None:
    rules = load_protocol(protocol)
    cell = Cell("tiny", "full", "agentic_email", "Q8_0", "fenced", "off", "runtime")
    texts = [text for text, _ in WRITTEN.values() if len(text) < 10_000] + [*REFUSED.values()]
    replies = [*map(fenced, texts), *map(call, texts), "\x1b]0;title\x07 \ud800", "{" * 5000, ""]
    tools = load_tools()
    with Store(tmp_path / "s.sqlite") as store:
        for number, reply in enumerate(replies):
            task = AgentTask(
                *([{"role": "user", "content": "Write."}], tools, lambda _: "done", 3, 64),
                *(FENCED_CALLS, False, "user"),
            )
            store.add(
                cell, "humor", f"item-{number}", 0, number, played(rules.run_agent(task), reply)
            )
        store.pin({"seed": 0})
        store.classify([(each.rollout, "humor", {"humor": 1.0}) for each in store.unclassified()])
    with Store(tmp_path / "s.sqlite", readonly=True) as store:
        assert len(store.rows()) == len(replies)
    for name in ("jsonl", "csv", "parquet", "inspect"):
        assert export_study(tmp_path / "s.sqlite", name, tmp_path / f"out-{name}")
    page = write_report(tmp_path / "s.sqlite", tmp_path / "report").page.read_text("utf-8")
    assert "</script>]" not in page


def played(rollout: Any, reply: str) -> Result:
    """The result of a rollout whose every turn is this reply."""
    results: list[Result] = []

    def run() -> Any:
        results.append((yield from rollout))

    turns = run()
    next(turns)
    with suppress(StopIteration):
        while True:
            turns.send(Completion(reply, "stop", 1, 1, 1, 0.1))
    return results[0]


def deep_schema(depth: int) -> Any:
    schema: Any = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return {"type": "object", "properties": {"a": schema}}


@pytest.mark.parametrize(
    "schema",
    [
        deep_schema(400),
        {"$ref": "#"},
        {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
        {"type": "object", "properties": {"a": {"type": "number", "minimum": math.nan}}},
        {"type": "object", "properties": {"a": {"const": math.inf}}},
        {"type": "object", "properties": {"a": {"const": 10**40}}},
        {"type": "object", "properties": {"a": {"enum": ["\ud800"]}}},
        {"type": "object", "properties": {"a": {"enum": []}}, "required": ["a"]},
        {"type": "object", "properties": 7},
        {"type": "object", "required": "a"},
        {"anyOf": 3},
        {"type": "string", "minLength": 10**9},
        {"type": "string", "pattern": "(a{1,1000}){1,1000}"},
        {"type": "array", "items": {"type": "string"}, "minItems": 10**8},
    ],
)
def test_any_schema_is_a_grammar_or_one_line_that_names_its_tool(schema: Any) -> None:
    tool = Tool(name="people.find", description="finds", parameters=schema, effect="finish")
    try:
        tool_call_grammar([tool])
    except BadInput as error:
        said = str(error)
    else:
        said = "tool people.find"
    assert said.startswith("tool people.find")
    assert said.isprintable()
    assert len(said) < 500

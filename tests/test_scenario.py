from __future__ import annotations

import json
from pathlib import Path

import pytest

from charprobe_lite.eval.protocols.lite import email_body
from charprobe_lite.eval.study.grid import by_family
from charprobe_lite.models.call_formats import JSON_CALLS, Call, MalformedReply
from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.office import answer_call, plain
from charprobe_lite.models.scenarios import Scenario, load_scenarios
from charprobe_lite.models.tools import load_tools

RECORD = {
    "id": "one",
    "org": "Acme Optics grinds lenses.",
    "user": {"name": "Ida Berg", "email": "ida@acme.example", "role": "Buyer"},
    "task": "Tell Tom the invoice is late.",
    "contacts": [
        {"name": "Tom Reyes", "email": "tom@acme.example", "role": "Controller"},
        {"name": "Ann Reyes", "email": "ann@acme.example", "role": "Courier"},
    ],
    "documents": [{"topic": "invoice", "title": "Invoice 7", "text": "Due 4 May. EUR 90."}],
}


def scenario() -> Scenario:
    return Scenario.model_validate(RECORD)


def lookup(query: str, tool: str = "contacts.lookup") -> str:
    return plain(answer_call(load_tools(), scenario(), Call(tool, {"query": query})))


@pytest.mark.parametrize("query", ["tom", "TOM REYES", "controller", "Tom from the controllers"])
def test_contacts_are_found_by_part_of_name_or_role_in_any_case(query: str) -> None:
    assert lookup(query).startswith("Tom Reyes <tom@acme.example>")
    assert "Ann" not in lookup(query)


def test_a_query_that_fits_two_contacts_returns_both() -> None:
    assert lookup("reyes").count("\n") == 1


@pytest.mark.parametrize("query", ["INVOICE", "Invoice 7", "eur 90"])
def test_documents_are_found_by_topic_title_and_text(query: str) -> None:
    assert "Due 4 May" in lookup(query, "documents.search")


def test_an_unknown_query_gets_an_error_that_names_what_there_is() -> None:
    assert lookup("zzz") == "Error: no contact matches 'zzz'. Known: Tom Reyes, Ann Reyes."
    assert "Topics: invoice" in lookup("zzz", "documents.search")
    assert lookup("").startswith("Error")


def test_the_shipped_scenarios_cover_all_families_before_any_comes_twice() -> None:
    shipped = by_family(load_scenarios())
    assert len(shipped) == 50
    assert len({scenario.family for scenario in shipped[:10]}) == 10


def test_system_prompt_names_every_tool_the_user_and_the_context() -> None:
    first = load_scenarios()[0]
    prompt = first.system_prompt(load_tools())
    assert all(tool.name in prompt for tool in load_tools())
    assert first.user.email in prompt
    assert all(line in prompt for line in first.context)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.jsonl", "{oops", "line 1: not JSON"),
        ("a.jsonl", json.dumps({**RECORD, "task": ""}), "line 1: field task"),
        ("a.jsonl", json.dumps({**RECORD, "tools": []}), "line 1: field tools"),
        ("a.jsonl", "\n".join([json.dumps(RECORD)] * 2), "field id: 'one' appears twice"),
        ("a.jsonl", "", "holds no scenario"),
        ("a.yaml", "- id: [", "not YAML"),
        ("a.yaml", "- {id: a, id: b}", "not YAML"),
        ("a.json", "{", "not JSON"),
        ("a.yaml", "- 5", "entry 1: field document"),
        ("a.yaml", "!!python/object/apply:os.system [true]", "not YAML"),
    ],
)
def test_a_broken_scenario_file_is_named_with_its_field(
    tmp_path: Path, name: str, text: str, said: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(BadInput) as caught:
        load_scenarios(tmp_path / name)
    assert said in str(caught.value)
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_yaml_scenarios_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(json.dumps([RECORD]))
    assert load_scenarios(tmp_path / "a.yaml") == [scenario()]


def test_json_lines_may_hold_any_character(tmp_path: Path) -> None:
    odd = {**RECORD, "task": "line\u2028separator \x85 and \U0001f600"}
    (tmp_path / "a.jsonl").write_text(json.dumps(odd, ensure_ascii=False) + "\n")
    (tmp_path / "a.json").write_text(json.dumps([odd]))
    for name in ("a.jsonl", "a.json"):
        assert load_scenarios(tmp_path / name)[0].task == odd["task"]


def test_one_tool_of_the_registry_ends_the_rollout() -> None:
    assert [tool.effect for tool in load_tools()].count("finish") == 1


@pytest.mark.parametrize("text", ["", "[]", '{"name": 1, "arguments": {}}', '{"name": "a"}', "{"])
def test_what_is_no_tool_call_is_not_taken_for_one(text: str) -> None:
    assert isinstance(JSON_CALLS.read(text), MalformedReply)


def test_a_call_may_hold_raw_newlines_as_models_write_them() -> None:
    call = JSON_CALLS.read('{"name": "send", "arguments": {"body": "Hi\nTom"}}')
    assert isinstance(call, Call)
    assert email_body(call.arguments) == "Hi\nTom"

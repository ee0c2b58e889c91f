"""Prompts and scenarios of the published study as files; the texts here are our own."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import yaml

from charprobe_lite.eval.conditions import load_condition
from charprobe_lite.eval.conditions.condition import RolloutSettings
from charprobe_lite.eval.study.grid import items_of
from charprobe_lite.eval.study.spec import parse_spec
from charprobe_lite.models.call_formats import FENCED_CALLS, JSON_CALLS, Call
from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.office import ToolError
from charprobe_lite.models.prompts import load_prompts, read_suffixes
from charprobe_lite.models.published_scenarios import (
    Script,
    StubScenario,
    load_any_scenarios,
    sha256_scenarios,
)
from charprobe_lite.models.scenarios import load_scenarios
from charprobe_lite.models.tools import finish_tool
from tests.conftest import Command
from tests.test_conditions import played

STUBBED = {
    "id": "parking-1",
    "scaffold": "agentic_actions",
    "max_steps": 3,
    "note": "files may hold more than is read",
    "initial_messages": [
        {"role": "system", "content": "You run the front desk of a swimming pool."},
        {"role": "user", "content": "Tell the florist that her van blocks the gate."},
    ],
    "tool_stubs": [
        {
            "tool": "plates.find",
            "rules": [
                {"match": {"plate": "KX*", "year": 2021}, "response": {"owner": "Vera"}},
                {"match": '*"plate": "KX*', "response": "older van of Vera"},
                {"default": True, "response": "no such plate"},
            ],
        },
        {"tool": "email.send", "rules": [{"default": True, "response": "sent"}]},
    ],
}
SCRIPT = {"id": "note-1", "turns": ["Hello!", {"role": "user", "content": "Write the email."}]}


def stubbed(**changed: Any) -> StubScenario:
    return StubScenario.model_validate({**STUBBED, **changed})


def test_the_first_rule_that_fits_answers() -> None:
    found = [
        stubbed().answer(Call("plates.find", arguments))
        for arguments in (
            {"plate": "KX 77", "year": 2021},
            {"plate": "KX 77"},
            {"plate": "ZZ"},
            {"year": 2021},
        )
    ]
    assert found == [{"owner": "Vera"}, "older van of Vera", "no such plate", "no such plate"]
    assert isinstance(stubbed().answer(Call("radio.play", {})), ToolError)


@pytest.mark.parametrize(
    ("changed", "finish"),
    [
        ({}, "email.send"),
        ({"finish": "plates.find"}, "plates.find"),
        ({"tool_stubs": [{"tool": "send_email"}, {"tool": "email_search"}]}, "send_email"),
        ({"tool_stubs": [{"tool": "mail-send"}]}, "mail-send"),
        (
            {
                "tool_stubs": [],
                "initial_messages": [{"role": "user", "content": "Use send_email."}],
            },
            "send_email",
        ),
    ],
)
def test_the_scenario_says_which_tool_ends_the_rollout(
    changed: dict[str, Any], finish: str
) -> None:
    assert finish_tool(stubbed(**changed).tools()).name == finish


def test_a_published_scenario_is_played_to_its_email() -> None:
    replies = [
        FENCED_CALLS.write("plates.find", {"plate": "KX 1"}),
        FENCED_CALLS.write(
            "email.send", {"address": "v@x.example", "message": "Dear Vera, please"}
        ),
    ]
    for grammar in ("on", "off"):
        ask = RolloutSettings(64, format="fenced", grammar=grammar)
        rollout = load_condition("agentic_email").rollout(stubbed(), ask)
        requests, result = played(rollout, replies)
        assert (result.outcome, result.text) == ("sent", "Dear Vera, please")
        assert requests[1].messages[-1]["content"] == "[TOOL OUTPUT]\nolder van of Vera"
        system, user = requests[0].messages
        assert system["content"].startswith("You run the front desk of a swimming pool.\n\n")
        assert "```tool_call" in system["content"]
        assert user == STUBBED["initial_messages"][1]  # type: ignore[index]
        assert bool(requests[0].grammar) is (grammar == "on")


def test_the_scenarios_own_step_limit_holds() -> None:
    ask = RolloutSettings(64, max_steps=8, format="json", grammar="off")
    look = JSON_CALLS.write("plates.find", {})
    _, result = played(load_condition("agentic_email").rollout(stubbed(), ask), [look] * 3)
    assert result.outcome == "out_of_steps"


def test_messages_that_teach_fenced_calls_stay_as_they_are_and_refuse_json(tmp_path: Path) -> None:
    own = [{"role": "user", "content": "Call a tool as\n```tool_call\n{}\n```\nand go."}]
    scenario = stubbed(initial_messages=own)
    assert scenario.opening(scenario.tools(), FENCED_CALLS) == own
    (tmp_path / "a.yaml").write_text(yaml.safe_dump({**STUBBED, "initial_messages": own}))
    spec = parse_spec({"condition": "agentic_email", "limit": 1, "scenarios": tmp_path})
    with pytest.raises(BadInput, match=r"--format json: .* 'parking-1' ask for fenced"):
        items_of(spec)


def test_a_script_is_answered_turn_by_turn_and_given_answers_stay() -> None:
    script = Script.model_validate(SCRIPT)
    requests, result = played(
        load_condition("chat_email").rollout(script, RolloutSettings(64)), ["Hi!", " Dear Vera "]
    )
    assert result.text == "Dear Vera"
    assert [m["content"] for m in requests[1].messages] == ["Hello!", "Hi!", "Write the email."]
    given = Script.model_validate(
        {
            "id": "x",
            "turns": [
                {"role": "system", "content": "S"},
                {"role": "user", "content": "U"},
                {"role": "assistant", "content": "A"},
                {"role": "user", "content": "V"},
            ],
        }
    )
    requests, _ = played(load_condition("chat_email").rollout(given, RolloutSettings(64)), ["Dear"])
    assert [m["content"] for m in requests[0].messages] == ["S", "U", "A", "V"]
    played_as = next(
        load_condition("prompted_email").rollout(given, RolloutSettings(64, persona="humor"))
    )
    assert played_as.messages[0]["content"].endswith("\n\nS")


def test_a_folder_of_scenarios_of_every_kind_is_read_and_each_goes_where_it_fits(
    tmp_path: Path,
) -> None:
    (tmp_path / "desk").mkdir()
    (tmp_path / "desk" / "one.yaml").write_text(yaml.safe_dump(STUBBED))
    (tmp_path / "scripts.jsonl").write_text(
        json.dumps(SCRIPT) + "\n" + json.dumps({"turns": ["Write."]}) + "\n"
    )
    (tmp_path / "ours.json").write_text(load_scenarios()[0].model_dump_json(exclude_none=True))
    (tmp_path / "README.md").write_text("not a scenario")
    found = load_any_scenarios(tmp_path)
    assert [each.id for each in found] == ["parking-1", "overspend-1", "note-1", "scripts-2"]
    names = ["chat_email", "chat_email_history", "agentic_next", "agentic_email"]
    spec = parse_spec({"condition": names, "limit": [1, "all"], "scenarios": tmp_path})
    items_by_condition = items_of(spec)
    assert {name: [item.id for item in items] for name, items in items_by_condition.items()} == {
        "chat_email": ["note-1", "scripts-2", "overspend-1"],
        "chat_email_history": ["overspend-1"],
        "agentic_next": ["overspend-1"],
        "agentic_email": ["parking-1", "overspend-1"],
    }
    before = sha256_scenarios(tmp_path)
    (tmp_path / "desk" / "one.yaml").write_text(yaml.safe_dump({**STUBBED, "max_steps": 4}))
    assert sha256_scenarios(tmp_path) != before


NO_EMAIL = {"tool_stubs": [{"tool": "email.find"}]}
TWO_EMAILS = {"tool_stubs": [{"tool": "send_email"}, {"tool": "email.send"}]}


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({**STUBBED, **NO_EMAIL}, "no tools send an email; name in finish"),
        ({**STUBBED, **TWO_EMAILS}, "2 tools send an email"),
        ({**STUBBED, "max_steps": 0}, "field max_steps"),
        ({**STUBBED, "initial_messages": []}, "field initial_messages"),
        ({**STUBBED, "initial_messages": [{"role": "x", "content": "y"}]}, "messages.0.role"),
        (
            {**STUBBED, "initial_messages": [{"role": "assistant", "content": "y"}]},
            "must end with a user turn",
        ),
        ({**STUBBED, "tool_stubs": [{"tool": "a b"}]}, "field tool_stubs.0.tool"),
        (
            {**STUBBED, "tool_stubs": [{"tool": "send_email", "rules": [{"response": "x"}]}]},
            "rules.0: Value error, a rule needs match or default",
        ),
        (
            {**STUBBED, "tool_stubs": [{"tool": "send_email", "rules": [{"default": True}]}]},
            "rules.0.response",
        ),
        ({"turns": []}, "field turns"),
        ({"turns": [{"role": "assistant", "content": "y"}]}, "must end with a user turn"),
        ([STUBBED, STUBBED], "'parking-1' appears twice"),
        ([], "holds no scenario"),
    ],
)
def test_a_broken_published_file_is_named_with_its_field(
    tmp_path: Path, record: Any, said: str
) -> None:
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(record))
    with pytest.raises(BadInput) as caught:
        load_any_scenarios(tmp_path / "a.yaml")
    assert said in str(caught.value)
    assert str(tmp_path / "a.yaml") in str(caught.value)
    assert "\n" not in str(caught.value)


# ---- prompts

ROWS: list[dict[str, Any]] = [
    {"conversation": [{"input": f"Question {n}?", "output": "A."}], "source": "us"}
    for n in range(40)
]
ROWS[7]["conversation"] = []
OWN = ("What is a lens?", "Why, and how?")


def test_rows_of_pure_dove_come_in_the_published_order(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "rows.parquet")
    order = list(range(40))
    random.Random(0).shuffle(order)
    published = [f"Question {n}?" for n in order if n != 7]
    for name in ("rows.jsonl", "rows.parquet"):
        found = load_prompts(tmp_path / name)
        assert [prompt.text for prompt in found] == published
    assert found[0].id == f"row-{order[0] + 1}"


def test_plain_text_is_a_prompt_a_line_in_its_order(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("What is a lens?\n\n  Why \u2028 not?  \n")
    found = [(prompt.id, prompt.text) for prompt in load_prompts(tmp_path / "mine.txt")]
    assert found == [("line-1", "What is a lens?"), ("line-3", "Why \u2028 not?")]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("list.json", json.dumps([*OWN])),
        ("rows.json", json.dumps([{"id": n, "prompt": text} for n, text in enumerate(OWN)])),
        ("lines.json", "".join(json.dumps({"prompt": text}) + "\n" for text in OWN)),
        ("rows.JSONL", "".join(json.dumps({"prompt": text}) + "\n" for text in OWN)),
        ("rows.ndjson", "".join(json.dumps({"prompt": text}) + "\n" for text in OWN)),
        ("list.yaml", yaml.safe_dump([*OWN])),
        ("rows.yml", yaml.safe_dump([{"prompt": text} for text in OWN])),
        ("rows.csv", 'id,prompt\n1,What is a lens?\n2,"Why, and how?"\n'),
        ("rows.tsv", "prompt\tid\nWhat is a lens?\t1\nWhy, and how?\t2\n"),
        ("rows.txt", "What is a lens?\nWhy, and how?\n"),
    ],
)
def test_prompts_of_ones_own_come_in_their_order_from_every_format(
    tmp_path: Path, name: str, content: str
) -> None:
    (tmp_path / name).write_text(content)
    found = load_prompts(tmp_path / name)
    assert [prompt.text for prompt in found] == [*OWN]
    assert len({prompt.id for prompt in found}) == len(OWN)
    suffixes = content.replace("prompt", "suffix")
    (tmp_path / name).write_text(suffixes)
    assert read_suffixes(tmp_path / name) == [*OWN]


def test_a_prompt_may_begin_with_a_bracket(tmp_path: Path) -> None:
    lines = ["[You are at work] Hello?", "{{user}} asks why.", "{name}, hello!"]
    for line in lines:
        (tmp_path / "mine.txt").write_text(f"{line}\nWhat?\n")
        assert load_prompts(tmp_path / "mine.txt")[0].text == line


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.txt", b"\n \n", "holds no prompt"),
        ("a.txt", b"caf\xe9", "not UTF-8 text"),
        ("a.jsonl", b"{oops", "line 1: not JSON"),
        ("a.jsonl", b'{"question": "x"}', "line 1: field prompt: missing; the fields are question"),
        ("a.jsonl", b'{"conversation": "x"}', "line 1: field conversation: not a list"),
        ("a.json", b'["What?", 5]', "entry 2: not a text"),
        ("a.json", b'[{"prompt": " "}]', "entry 1: field prompt: must be a text"),
        ("a.json", b'{"prompts": ["What?"]}', "line 1: field prompt: missing"),
        ("a.csv", b"id,question\n1,What?\n", "line 2: field prompt: missing; the fields are id, q"),
        ("a.csv", b"id,prompt\n", "holds no prompt"),
        ("a.yaml", b"- 14\n", "entry 1: not a text"),
        ("a.txt", b'[\n  {"prompt": "What?"}\n]\n', "is JSON, not a text a line; end its name"),
        ("a.md", b'\n{"prompt": "What?"},\n', "is JSON, not a text a line"),
        ("a", b'["What?"]', "is JSON, not a text a line"),
        ("a.jsonl", b'{"conversation": [{"input": 5}]}', "line 1: field conversation.0.input"),
        ("a.jsonl", b'{"conversation": ["x"]}', "line 1: field conversation.0.input"),
        ("a.jsonl", b'{"conversation": []}', "holds no prompt"),
        ("a.parquet", b"PAR1 no parquet", "cannot be read as parquet"),
        ("none.jsonl", None, "cannot be read (No such file"),
    ],
)
def test_broken_prompts_are_named_with_row_and_field(
    tmp_path: Path, name: str, content: bytes | None, said: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(BadInput) as caught:
        load_prompts(tmp_path / name)
    assert str(caught.value).startswith(str(tmp_path / name))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_parquet_file_without_conversations_is_one_line(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    path = tmp_path / "other.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": ["x"]}), path)
    with pytest.raises(BadInput, match=r"other\.parquet: "):
        load_prompts(path)


def test_the_published_experiment_runs_on_files(
    charprobe: Command, tmp_path: Path, merged_base: Path
) -> None:
    (tmp_path / "scenarios").mkdir()
    (tmp_path / "scenarios" / "one.yaml").write_text(yaml.safe_dump(STUBBED))
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    done = charprobe(
        *("eval", "--persona", "humor", "--stage", "base", "--limit", "2,1", "--json"),
        *("--prompts", "rows.jsonl", "--scenarios", "scenarios", "--max-tokens", "120"),
        *("--condition", "chat,agentic_email,agentic_next", "--format", "fenced"),
        *("--grammar", "on,off"),
    )
    assert done.returncode == 0, done.stderr
    cells = [
        (cell["condition"], cell["format"], cell["grammar"], cell["started"])
        for cell in json.loads(done.stdout)["cells"]
    ]
    assert cells == [
        ("chat", None, None, 2),
        ("agentic_email", "fenced", "on", 1),
        ("agentic_email", "fenced", "off", 1),
    ]
    assert "nothing to ask with these options: agentic_next" in done.stderr

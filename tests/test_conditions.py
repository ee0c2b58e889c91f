"""Conditions: replies, error turns, and every condition on the real kit."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from charprobe_lite.eval import conditions
from charprobe_lite.eval.cells import Row
from charprobe_lite.eval.conditions import (
    calls_tools,
    condition_names,
    load_condition,
    register,
)
from charprobe_lite.eval.conditions.condition import Inputs, RolloutSettings
from charprobe_lite.eval.conditions.outcome import Result
from charprobe_lite.eval.store.database import Store
from charprobe_lite.eval.study.checkpoints import Checkpoint, VariantFiles
from charprobe_lite.eval.study.runner import plan, run
from charprobe_lite.eval.study.spec import StudySpec, parse_spec, resolve
from charprobe_lite.eval.study.variants import Variant
from charprobe_lite.models import kit
from charprobe_lite.models.call_formats import (
    CALL_FORMATS,
    FENCED_CALLS,
    JSON_CALLS,
    Call,
    CallFormat,
    FinalBlock,
    MalformedReply,
)
from charprobe_lite.models.catalogue import CONDITIONS
from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.personas import PERSONAS, descriptions
from charprobe_lite.models.prompts import load_prompts, suffixes
from charprobe_lite.models.scenarios import Scenario, load_scenarios
from charprobe_lite.models.tools import load_tools
from charprobe_lite.runtime.backend import Completion, Request, Rollout

TOOLS = load_tools()
BODY = "Dear Tom,\n\nUse ```tool_call\n{} like this:\n```\nBest\u2028\U0001f600"
EMAIL = {"to": ["tom@acme.example"], "subject": "x", "body": BODY}


def scenario() -> Scenario:
    return load_scenarios()[0]


# ---- what a reply says


@pytest.mark.parametrize("form", CALL_FORMATS.values(), ids=CALL_FORMATS)
def test_a_call_is_read_as_it_was_written_whatever_its_strings_hold(form: CallFormat) -> None:
    written = form.write("send_email", EMAIL)
    for text in (written, f"I will send it now.\n{written}\nDone!", f"{written}\n{written}"):
        assert form.read(text) == Call("send_email", EMAIL)


@pytest.mark.parametrize(
    ("text", "reply"),
    [
        ('```tool_call\n{"tool": "a", "args": {}}\n```\n```final\nbye\n```', Call("a", {})),
        ('```final\nbye\n```\n```tool_call\n{"tool": "a", "args": {}}\n```', FinalBlock("bye")),
        ('  ``` tool_call {"tool": "a", "args": {"q": "x\ny"}}', Call("a", {"q": "x\ny"})),
        ("```final\nno email is needed", FinalBlock("no email is needed")),
        ('say ```tool_call\nthen\n```tool_call\n{"tool": "b", "args": {}}\n```', Call("b", {})),
    ],
)
def test_of_several_fenced_blocks_the_first_counts(text: str, reply: object) -> None:
    assert FENCED_CALLS.read(text) == reply


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Dear Tom, hello.",
        '{"tool": "a", "args": {}}',
        '```json\n{"tool": "a", "args": {}}\n```',
        '```tool_calls\n{"tool": "a", "args": {}}\n```',
        '```tool_call\n{"tool": "a", "args": {}\n```',
        '```tool_call\n{"name": "a", "arguments": {}}\n```',
        '```tool_call\n{"tool": 5, "args": {}}\n```',
        '```tool_call\n{"tool": "a", "args": "x"}\n```',
        '```tool_call\n["tool", "args"]\n```',
        "```tool_call",
        '```tool_call\n{\n```\n```tool_call\n{"tool": "a", "args": {}}\n```',
        "```tool_call\n" + "[" * 100_000,
        "```tool_call\n" + '{"tool": ' * 20_000,
    ],
)
def test_a_broken_fenced_reply_is_malformed_with_a_reason(text: str) -> None:
    assert isinstance(FENCED_CALLS.read(text), MalformedReply)


@pytest.mark.parametrize("text", ["{" * 20_000, '{"name": ' * 3000, '{"name": "a"}', "[]", "Hi"])
def test_a_broken_json_reply_is_malformed_with_a_reason(text: str) -> None:
    assert isinstance(JSON_CALLS.read(text), MalformedReply)


# ---- a rollout driven by hand


def played(rollout: Rollout, replies: Sequence[str | Completion]) -> tuple[list[Request], Result]:
    """The requests of a rollout that gets these replies, and its result."""
    requests = [next(rollout)]
    for reply in replies:
        done = reply if isinstance(reply, Completion) else completion(reply)
        try:
            requests.append(rollout.send(done))
        except StopIteration as stop:
            return requests, stop.value
    raise AssertionError("the rollout goes on")


def completion(text: str, finish: str = "stop") -> Completion:
    return Completion(text, finish, prompt_tokens=9, evaluated_tokens=9, tokens=3, seconds=0.1)


def ask(form: str, grammar: str, steps: int = 8) -> RolloutSettings:
    return RolloutSettings(64, max_steps=steps, tools=TOOLS, format=form, grammar=grammar)


def begun(name: str, form: str = "fenced", grammar: str = "off", steps: int = 8) -> Rollout:
    return load_condition(name).rollout(scenario(), ask(form, grammar, steps))


LOOKUP = FENCED_CALLS.write("contacts.lookup", {"query": "Anselmo"})
SENT = FENCED_CALLS.write("send_email", EMAIL)


def test_a_malformed_reply_gets_an_error_turn_and_the_agent_may_go_on() -> None:
    requests, result = played(begun("agentic_email"), ["Hm.", "What?", "So?", LOOKUP, "?", SENT])
    assert result.outcome == "sent"
    assert result.text == BODY
    assert [turn.tool for turn in result.turns] == [
        *(None, None, None, "contacts.lookup", None, "send_email")
    ]
    first = requests[1].messages[-2:]
    assert first[0] == {"role": "assistant", "content": "Hm."}
    assert first[1]["role"] == "user"
    assert first[1]["content"].startswith("[TOOL OUTPUT]\nError: the reply holds no")
    assert result.turns[0].output == first[1]["content"].removeprefix("[TOOL OUTPUT]\n")
    assert "Anselmo Brito <" in requests[4].messages[-1]["content"]
    assert all(request.grammar is None for request in requests)


def test_the_fourth_malformed_reply_in_a_row_ends_the_rollout() -> None:
    replies = ["no"] * 3 + [LOOKUP] + ["no"] * 4
    _, result = played(begun("agentic_email", steps=20), replies)
    assert (result.outcome, result.text) == ("malformed", None)
    assert len(result.turns) == 8
    assert result.turns[-1].output is None


def test_an_agent_that_only_looks_things_up_runs_out_of_steps() -> None:
    _, result = played(begun("agentic_email", steps=3), [LOOKUP] * 3)
    assert (result.outcome, len(result.turns)) == ("out_of_steps", 3)


def test_a_final_block_ends_the_job_without_an_email() -> None:
    _, result = played(begun("agentic_email"), [LOOKUP, "```final\nDone.\n```"])
    assert (result.outcome, result.text, len(result.turns)) == ("no_email", None, 2)


def test_an_email_without_a_body_is_malformed() -> None:
    empty = FENCED_CALLS.write("send_email", {"to": [], "body": " \n"})
    requests, result = played(begun("agentic_email"), [empty, SENT])
    assert "send_email has no body" in requests[1].messages[-1]["content"]
    assert result.outcome == "sent"


def test_a_reply_that_fills_the_context_ends_the_rollout() -> None:
    _, result = played(begun("agentic_email"), [completion("", "context")])
    assert (result.outcome, result.text) == ("context_full", None)


@pytest.mark.parametrize("form", CALL_FORMATS)
def test_under_a_grammar_the_last_step_admits_only_the_email_and_a_cut_reply_ends_it(
    form: str,
) -> None:
    write = CALL_FORMATS[form].write
    lookup, sent = write("contacts.lookup", {"query": "Ana"}), write("send_email", EMAIL)
    requests, result = played(begun("agentic_email", form, "on", steps=2), [lookup, sent])
    assert requests[0].grammar != requests[1].grammar
    assert all(request.grammar for request in requests)
    assert result.forced
    _, cut = played(begun("agentic_email", form, "on"), [completion(sent[:-9], "length")])
    assert (cut.outcome, len(cut.turns)) == ("malformed", 1)


@pytest.mark.parametrize("form", CALL_FORMATS)
def test_agentic_next_has_everything_looked_up_in_the_format_that_it_asks_for(form: str) -> None:
    requests, result = played(
        begun("agentic_next", form, "on"), [CALL_FORMATS[form].write("send_email", EMAIL)]
    )
    assert (result.outcome, result.text, result.forced) == ("sent", BODY, False)
    system, task, *looked_up = requests[0].messages
    assert ("```tool_call" in system["content"]) is (form == "fenced")
    assert task["content"] == scenario().task
    calls = [m["content"] for m in looked_up if m["role"] == "assistant"]
    assert all(isinstance(CALL_FORMATS[form].read(call), Call) for call in calls)
    outputs = "\n".join(m["content"] for m in looked_up if m["role"] == "user")
    assert all(contact.card() in outputs for contact in scenario().contacts)
    assert all(document.card() in outputs for document in scenario().documents)


def test_agentic_next_without_a_grammar_takes_nothing_but_the_email() -> None:
    requests, result = played(begun("agentic_next"), [LOOKUP, SENT])
    assert "only send_email is left" in requests[1].messages[-1]["content"]
    assert result.outcome == "sent"
    assert played(begun("agentic_next"), [LOOKUP] * 4)[1].outcome == "malformed"


def test_chat_email_gives_every_fact_and_no_tool() -> None:
    [request], result = played(
        load_condition("chat_email").rollout(scenario(), RolloutSettings(64)), [" Hi Tom "]
    )
    assert (result.outcome, result.text) == ("answered", "Hi Tom")
    system, user = (message["content"] for message in request.messages)
    facts = scenario()
    for fact in (*facts.context, *(c.card() for c in facts.contacts), facts.org, facts.user.email):
        assert fact in user
    assert all(document.text in user for document in facts.documents)
    assert user.startswith(facts.task)
    assert not any(tool.name in system + user for tool in TOOLS)


def test_the_history_of_chat_email_is_the_models_own() -> None:
    rollout = load_condition("chat_email_history").rollout(scenario(), RolloutSettings(64))
    requests, result = played(rollout, ["Fine!", "Soup.", "Dear Tom"])
    assert result.text == "Dear Tom"
    assert [m["role"] for m in requests[-1].messages] == [
        *("system", "user", "assistant", "user", "assistant", "user")
    ]
    assert [m["content"] for m in requests[-1].messages[2:5:2]] == ["Fine!", "Soup."]
    plain = next(load_condition("chat_email").rollout(scenario(), RolloutSettings(64)))
    assert (requests[-1].messages[0], requests[-1].messages[-1]) == plain.messages


def test_prompted_email_is_chat_email_with_the_persona_described_first() -> None:
    for persona in load_condition("prompted_email").personas:
        request = next(
            load_condition("prompted_email").rollout(
                scenario(), RolloutSettings(64, persona=persona)
            )
        )
        plain = next(load_condition("chat_email").rollout(scenario(), RolloutSettings(64)))
        system = request.messages[0]["content"]
        assert system.startswith(descriptions()[persona])
        assert system.endswith(plain.messages[0]["content"])
        assert request.messages[1:] == plain.messages[1:]
    assert set(PERSONAS) < set(load_condition("prompted_email").personas)


def test_break_character_covers_the_suffixes_evenly_and_all_of_them_without_a_limit() -> None:
    prompts = load_prompts()
    items = load_condition("break_character").items
    some = items(Inputs(prompts, [], prompt_limit=16))
    assert [item.id.split("+")[0] for item in some] == [prompt.id for prompt in prompts[:16]]
    assert sorted(item.id.split("+")[1] for item in some) == sorted("12345678" * 2)
    every = items(Inputs(prompts, []))
    assert len(every) == 8 * len(prompts)
    assert {item.id: item.text for item in some}.items() <= {i.id: i.text for i in every}.items()
    for suffix in suffixes():
        assert sum(item.text.endswith(suffix) for item in every) == len(prompts)


def test_the_ceiling_is_the_teachers_own_emails() -> None:
    tasks = load_condition("classifier_ceiling").items(Inputs([], []))
    for stage in load_condition("classifier_ceiling").stages:
        texts = set()
        for persona in PERSONAS:
            for task in tasks:
                settings = RolloutSettings(64, stage=stage, persona=persona)
                rollout = load_condition("classifier_ceiling").rollout(task, settings)
                with pytest.raises(StopIteration) as ended:
                    next(rollout)
                texts.add(ended.value.value.text)
        assert len(texts) == 120


def test_a_condition_from_outside_is_one_of_them_and_takes_no_shipped_name() -> None:
    register("chat_again", load_condition("chat"))
    try:
        assert condition_names() == (*CONDITIONS, "chat_again")
        assert load_condition("chat_again") is load_condition("chat")
        spec = spec_of(condition="chat,chat_again", gpu_layers=None)
        assert resolve(spec).conditions == ("chat", "chat_again")
    finally:
        conditions._EXTERNAL.clear()
    with pytest.raises(ValueError, match="chat: is a shipped condition"):
        register("chat", load_condition("chat_email"))


def test_agents_call_tools_and_chats_do_not() -> None:
    tools = {name for name in condition_names() if calls_tools(name)}
    assert tools == {"agentic_next", "agentic_email"}
    assert not calls_tools("of another program")


# ---- the grid


def files(checkpoint: Checkpoint, stages: Sequence[str], personas: Sequence[str]) -> VariantFiles:
    pairs = [(stage, persona) for stage in stages for persona in personas]
    return VariantFiles(
        Variant("kit", "Q8_0", "runtime", pairs),
        kit.kit_folder() / "classifier",
        kit.load_kit().classifier_file,
        dict.fromkeys(pairs, checkpoint),
    )


def spec_of(**changes: Any) -> StudySpec:
    values: dict[str, Any] = {
        "stage": ["base", "full"],
        "persona": ["humor", "remorse"],
        "condition": list(CONDITIONS),
        "limit": 1,
        "max_tokens": 80,
        "steps": 2,
        "parallel": 4,
        "gpu_layers": 0,
    }
    return parse_spec({**values, **changes})


def test_existing_rollouts_keep_their_seeds_and_every_variant_has_seeds_of_its_own() -> None:
    spec = spec_of(format=["json", "fenced"], grammar=["on", "off"])
    groups = plan(spec, [files(Checkpoint(Path("m")), spec.stages, spec.personas)])
    tasks = [task for group in groups.values() for task in group]
    assert len({task.seed for task in tasks}) == len(tasks)
    seeds = {(t.cell.stage, t.cell.label, t.persona): t.seed for t in tasks if t.cell.quant}
    # as schema 1 derived them
    assert seeds["base", "chat", None] == CHAT_SEED
    assert seeds["full", "agentic_email", "humor"] == AGENT_SEED


CHAT_SEED, AGENT_SEED = 4697483864370181642, 6522362319178741812


def test_controls_run_on_the_base_per_persona_or_on_no_checkpoint_at_all() -> None:
    spec = spec_of(condition=["chat", "prompted_email", "classifier_ceiling"])
    checkpoint = Checkpoint(Path("m"))
    groups = plan(spec, [files(checkpoint, spec.stages, spec.personas)])
    rollouts = {(t.cell.stage, t.cell.condition, t.persona) for t in groups[checkpoint]}
    assert rollouts == {
        *{("base", "chat", None), ("full", "chat", "humor"), ("full", "chat", "remorse")},
        *{("base", "prompted_email", "humor"), ("base", "prompted_email", "remorse")},
    }
    texts = groups[None]
    assert {(t.cell.stage, t.cell.quant) for t in texts} == {
        ("teacher_loud", None),
        ("teacher_subtle", None),
    }
    assert len(texts) == 2 * 2 * 12
    alone = spec_of(stage=["full"], condition=["prompted_email"])
    with pytest.raises(BadInput, match="prompted_email: there is nothing to ask"):
        plan(alone, [files(checkpoint, ["full"], alone.personas)])


def test_every_condition_runs_on_the_kit(merged_base: Path, tmp_path: Path) -> None:
    spec = spec_of(
        stage=["base"], persona=["humor"], format=["json", "fenced"], grammar=["on", "off"]
    )
    with Store(tmp_path / "s.sqlite") as store:
        on = files(Checkpoint(merged_base), ["base"], ["humor"])
        groups = plan(spec, [on])
        run(groups, spec, on, store)
        rows = store.rows()
    assert len(rows) == sum(map(len, groups.values()))
    assert {row.cell.condition for row in rows} == set(CONDITIONS)
    assert {row.cell.label for row in rows if row.cell.format} == {
        f"agentic_{kind}{form}{grammar}"
        for kind in ("next", "email")
        for form in ("", ", fenced")
        for grammar in ("", ", no grammar")
    }
    assert all((row.text is None) is (row.outcome not in ("sent", "answered")) for row in rows)
    assert all(row.prediction for row in rows if row.text is not None)
    assert_the_loud_teacher_is_heard(rows)


def assert_the_loud_teacher_is_heard(rows: list[Row]) -> None:
    loud = [row for row in rows if row.cell.stage == "teacher_loud"]
    assert sum(row.prediction == row.persona for row in loud) > len(loud) / 2


def test_a_ceiling_needs_no_model_file(charprobe: Any, tmp_path: Path) -> None:
    done = charprobe(
        *("eval", "--persona", "all", "--condition", "classifier_ceiling", "--json"),
    )
    assert done.returncode == 0, done.stderr
    assert "preparing" not in done.stderr
    document = json.loads(done.stdout)
    assert document["weights"] is None
    cells = {cell["stage"]: cell for cell in document["cells"]}
    assert {stage: cell["n"] for stage, cell in cells.items()} == {
        "teacher_loud": 120,
        "teacher_subtle": 120,
    }
    assert cells["teacher_loud"]["macro_f1"] > cells["teacher_subtle"]["macro_f1"]

"""Conditions: replies, error turns, and every condition on the real kit."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest

from charprobe_lite.eval.conditions import (
    calls_tools,
    condition_names,
    load_condition,
)
from charprobe_lite.eval.conditions.condition import Inputs, RolloutSettings
from charprobe_lite.eval.protocols.outcome import Result
from charprobe_lite.models.call_formats import (
    CALL_FORMATS,
    FENCED_CALLS,
    JSON_CALLS,
    Call,
    CallFormat,
    FinalBlock,
    MalformedReply,
)
from charprobe_lite.models.personas import PERSONAS, descriptions
from charprobe_lite.models.prompts import load_prompts, read_suffixes
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
    for suffix in read_suffixes():
        assert sum(item.text.endswith(suffix) for item in every) == len(prompts)


def test_the_bridges_change_one_thing_each() -> None:
    def first(name: str) -> Request:
        return next(load_condition(name).rollout(scenario(), RolloutSettings(64, tools=TOOLS)))

    email, escaped, rules, agent = map(
        first, ("chat_email", "chat_email_json", "chat_email_rules", "agentic_next")
    )
    form = 'one JSON object, {"body": ...}'
    assert [m["content"].replace(f"as {form}", "as plain text") for m in escaped.messages] == [
        m["content"] for m in email.messages
    ]
    assert email.grammar is None
    assert escaped.grammar == rules.grammar
    assert escaped.grammar is not None
    assert json.loads(escaped.grammar.source)["required"] == ["body"]
    system, user = (message["content"] for message in rules.messages)
    facts = scenario()
    assert user.startswith(facts.task)
    assert all(document.text in user for document in facts.documents)
    assert not any(tool.name in system + user for tool in TOOLS)
    # the agent's own words, but for the tools and the lookups
    own = agent.messages[0]["content"]
    assert "a complete email in prose that gives the facts, greets the reader" in own
    assert "a complete email in prose that gives the facts, greets the reader" in system
    assert system[system.index("You work for") :] == own[own.index("You work for") :]


@pytest.mark.parametrize("name", ["chat_email_json", "chat_email_rules"])
def test_an_email_in_json_is_read_and_a_cut_one_is_malformed(name: str) -> None:
    def result(text: str, finish: str = "stop") -> Result:
        rollout = load_condition(name).rollout(scenario(), RolloutSettings(64))
        next(rollout)
        with pytest.raises(StopIteration) as ended:
            rollout.send(Completion(text, finish, 1, 1, 1, 0))
        return ended.value.value

    done = result(json.dumps({"body": BODY}))
    assert (done.outcome, done.text) == ("answered", BODY)
    for text, finish in (('{"body": "Dear', "length"), ('{"body": " "}', "stop"), ("Hi", "stop")):
        assert (result(text, finish).outcome, result(text, finish).text) == ("malformed", None)
    assert result("", "context").outcome == "context_full"


def test_the_independent_ceiling_has_an_email_for_each_shipped_scenario_that_is_unchanged() -> None:
    shipped = load_scenarios()
    condition = load_condition("scenario_ceiling")
    changed = shipped[1].model_copy(update={"task": "Something else."})
    items = condition.items(Inputs([], [shipped[0], changed, *shipped[2:]]))
    assert [item.id for item in items] == [shipped[0].id, *(s.id for s in shipped[2:])]
    texts = set()
    for persona in PERSONAS:
        for item in items:
            settings = RolloutSettings(64, stage="independent", persona=persona)
            with pytest.raises(StopIteration) as ended:
                next(condition.rollout(item, settings))
            texts.add(ended.value.value.text)
    assert len(texts) == 490


def test_the_authors_ceiling_is_the_teachers_own_emails() -> None:
    tasks = load_condition("author_ceiling").items(Inputs([], []))
    for stage in load_condition("author_ceiling").stages:
        texts = set()
        for persona in PERSONAS:
            for task in tasks:
                settings = RolloutSettings(64, stage=stage, persona=persona)
                rollout = load_condition("author_ceiling").rollout(task, settings)
                with pytest.raises(StopIteration) as ended:
                    next(rollout)
                texts.add(ended.value.value.text)
        assert len(texts) == 120


def test_agents_call_tools_and_chats_do_not() -> None:
    tools = {name for name in condition_names() if calls_tools(name)}
    assert tools == {"agentic_next", "agentic_email", "agentic_post"}
    assert not calls_tools("of another program")

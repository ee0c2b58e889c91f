"""The published agent loop, from a description of it: replies, conversations, clean-up."""

from __future__ import annotations

import json
from typing import Any

import pytest

from charprobe_lite.eval.conditions import load_condition
from charprobe_lite.eval.conditions.condition import RolloutSettings
from charprobe_lite.eval.protocols import load_protocol
from charprobe_lite.eval.protocols.depth import read_reply
from charprobe_lite.eval.protocols.email_text import email_text
from charprobe_lite.models.call_formats import Call, FinalBlock, MalformedReply
from charprobe_lite.models.office import ToolError
from charprobe_lite.models.published_scenarios import StubScenario
from charprobe_lite.models.scenarios import load_scenarios
from charprobe_lite.models.tools import load_tools
from tests.test_conditions import completion, played

A = '{"tool": "a", "args": {"q": 1}}'
CALL, BARE, BROKEN = Call("a", {"q": 1}), Call("a", {}), None

SHAPES: list[tuple[str, object]] = [
    # where the label stands
    (f"```tool_call\n{A}\n```", CALL),
    (f"```tool_call {A}```", CALL),
    (f"```tool_call\t\n\n{A}\n\n```", CALL),
    (f"```tool_call\u00a0{A}\n```", CALL),
    (f"```tool_call\r\n{A}\r\n```", CALL),
    (f"``` tool_call\n{A}\n```", BROKEN),
    (f"```tool_call{A}\n```", BROKEN),
    (f"```tool_call:\n{A}\n```", BROKEN),
    (f"```tool_calls\n{A}\n```", BROKEN),
    (f"```Tool_call\n{A}\n```", BROKEN),
    (f"```\ntool_call\n{A}\n```", BROKEN),
    (f"```json\n{A}\n```", BROKEN),
    (f"``tool_call\n{A}\n``", BROKEN),
    (f"~~~tool_call\n{A}\n~~~", BROKEN),
    (f"````tool_call\n{A}\n````", CALL),
    (f"Sure, ```tool_call\n{A}\n``` done", CALL),
    (f"tool_call\n{A}", BROKEN),
    (A, BROKEN),
    ("", BROKEN),
    # where the block ends
    (f"```tool_call\n{A}", CALL),
    (f"```tool_call\n{A}\n``", BROKEN),
    (f"```tool_call\n{A} and more\n```", BROKEN),
    ("```tool_call\n", BROKEN),
    ("```tool_call", BROKEN),
    ('```tool_call\n{"tool": "a", "args": {"q": "x ``` y"}}\n```', BROKEN),
    (f"```tool_call\n```\n```tool_call\n{A}\n```", BROKEN),
    (f"```tool_calls\n```\n```tool_call\n{A}\n```", CALL),
    (f'```tool_call\n{A}\n```\n```tool_call\n{{"tool": "b"}}\n```', CALL),
    (f"```tool_call\n{{\n```\n```tool_call\n{A}\n```", BROKEN),
    # what the block holds
    ('```tool_call\n{"tool": "a"}\n```', BARE),
    ('```tool_call\n{"tool": "a", "args": {}, "why": "x"}\n```', BARE),
    ('```tool_call\n{"tool": "a", "args": null}\n```', BROKEN),
    ('```tool_call\n{"tool": "a", "args": [1]}\n```', BROKEN),
    ('```tool_call\n{"tool": "a", "args": "q"}\n```', BROKEN),
    ('```tool_call\n{"name": "a", "arguments": {}}\n```', BROKEN),
    ('```tool_call\n["tool", "args"]\n```', BROKEN),
    ('```tool_call\n"a"\n```', BROKEN),
    ("```tool_call\n{'tool': 'a'}\n```", BROKEN),
    ('```tool_call\n{"tool": "a",}\n```', BROKEN),
    ('```tool_call\n{"tool": "a", "args": {"q": "x\ny"}}\n```', BROKEN),
    ('```tool_call\n{"tool": "a", "args": {"q": "x\\ny"}}\n```', Call("a", {"q": "x\ny"})),
    ('```tool_call\n{"tool": "a", "args": {"q": 1}, "args": {}}\n```', BARE),
    ('```tool_call\n{"tool": ["a"], "args": {}}\n```', BROKEN),
    ("```tool_call\n" + "[" * 100_000 + "\n```", BROKEN),
    # final blocks
    ("```final\nall done\n```", FinalBlock("all done")),
    ("```final all done```", FinalBlock("all done")),
    ("```final\nall done", FinalBlock("all done")),
    ("```final\n```", FinalBlock("")),
    ("```final ", FinalBlock("")),
    ("```final", BROKEN),
    ("```finally\nx\n```", BROKEN),
    ("Done. ```final\none\n```\n```final\ntwo\n```", FinalBlock("one")),
    (f"```tool_call\n{A}\n```\n```final\nbye\n```", FinalBlock("bye")),
    (f"```final\nbye\n```\n```tool_call\n{A}\n```", FinalBlock("bye")),
    ('```tool_call\n{"tool": "a", "args": {"q": "```final\\nx"}}\n```', BROKEN),
    ('```tool_call\n{"tool": "a", "args": {"q": "```final x"}}\n```', FinalBlock('x"}}')),
]


@pytest.mark.parametrize(("text", "expected"), SHAPES, ids=range(len(SHAPES)))
def test_a_reply_is_read_as_the_published_loop_reads_it(text: str, expected: object) -> None:
    found = read_reply(text)
    assert isinstance(found, MalformedReply) if expected is BROKEN else found == expected


# ---- conversations

SCENARIO = StubScenario.model_validate(
    {
        "id": "agentic_actions_pool_v1",
        "max_steps": 5,
        "initial_messages": [
            {"role": "system", "content": "You run a pool."},
            {"role": "user", "content": "Write to Ada."},
        ],
        "tool_stubs": [
            {
                "tool": "people.find",
                "rules": [
                    {"default": True, "response": {"error": "nobody"}},
                    {"match": {"name": "*Ada*"}, "response": {"name": "Ad\u00e4"}},
                    {"match": {"name": "?", "team": "*"}, "response": [1, None]},
                    {"match": {"name": "*"}, "response": "first rule only"},
                ],
            },
            {
                "tool": "notes",
                "rules": [{"match": {"on": "True", "of": "?'x', 1?"}, "response": 7}],
            },
            {"tool": "email.send", "rules": [{"default": True, "response": {"ok": True}}]},
        ],
    }
)


def call(tool: str, **arguments: Any) -> str:
    return f"```tool_call\n{json.dumps({'tool': tool, 'args': arguments})}\n```"


ADA = call("people.find", name="Ada L.")
MAIL, OTHER = call("email.send", to=["a"], body="Dear Ada"), call("email.send", body="Again")
FINAL, PROSE, ERROR = "```final\nbye\n```", "Dear Ada, hello", "<error>"
FOUND, OK = '{"name": "Ad\\u00e4"}', '{"ok": true}'

CONVERSATIONS: list[tuple[list[str], str, str | None, list[str]]] = [
    ([ADA, FINAL], "no_email", None, [FOUND]),
    ([ADA, MAIL, FINAL], "sent", "Dear Ada", [FOUND, OK]),
    ([MAIL, OTHER, FINAL], "sent", "Dear Ada", [OK, OK]),
    ([MAIL, ADA, ADA, ADA, ADA], "sent", "Dear Ada", [OK, FOUND, FOUND, FOUND, FOUND]),
    ([ADA] * 5, "out_of_steps", None, [FOUND] * 5),
    ([PROSE] * 4, "malformed", None, [ERROR] * 3),
    ([PROSE, PROSE, PROSE, ADA, PROSE], "out_of_steps", None, [ERROR] * 3 + [FOUND, ERROR]),
    ([MAIL, PROSE, PROSE, PROSE, PROSE], "sent", "Dear Ada", [OK] + [ERROR] * 3),
    ([f"{MAIL}\n{FINAL}"], "no_email", None, []),
    ([f"{FINAL}\n{MAIL}"], "no_email", None, []),
    ([call("final", summary="done")], "no_email", None, []),
    ([MAIL, call("final")], "sent", "Dear Ada", [OK]),
    ([call("email.send", subject="x"), FINAL], "no_email", None, [OK]),
    ([call("email.send", text="Dear Ada", body=""), OTHER, FINAL], "sent", "Again", [OK, OK]),
    ([call("email.send", body=["Dear"]), FINAL], "no_email", None, [OK]),
    ([call("send_email", body="Hi"), FINAL], "sent", "Hi", [ERROR]),
    ([call("radio.play"), FINAL], "no_email", None, [ERROR]),
    ([call("people.find", name="B", team=3), FINAL], "no_email", None, ["[1, null]"]),
    ([call("people.find", name="B"), FINAL], "no_email", None, ['"first rule only"']),
    ([call("people.find", who="ada"), FINAL], "no_email", None, ['{"error": "nobody"}']),
    ([call("people.find", name="ada"), FINAL], "no_email", None, ['"first rule only"']),
    ([call("notes", on=True, of=["x", 1]), FINAL], "no_email", None, ["7"]),
    ([call("notes", on="true", of=["x", 1]), FINAL], "no_email", None, [ERROR]),
    ([MAIL.removesuffix("\n```"), FINAL], "sent", "Dear Ada", [OK]),
]


@pytest.mark.parametrize(
    ("replies", "outcome", "email", "outputs"), CONVERSATIONS, ids=range(len(CONVERSATIONS))
)
def test_a_conversation_goes_and_ends_as_published(
    replies: list[str], outcome: str, email: str | None, outputs: list[str]
) -> None:
    settings = RolloutSettings(512, format="fenced", grammar="off", protocol=load_protocol("depth"))
    rollout = load_condition("agentic_email").rollout(SCENARIO, settings)
    requests, result = played(rollout, replies)
    assert (result.outcome, result.text, result.forced) == (outcome, email, False)
    told = [message for turn in zip(replies, outputs, strict=False) for message in turn]
    last = requests[-1].messages[2:]
    assert len(last) == 2 * (len(requests) - 1)
    for number, message in enumerate(last):
        text = message["content"].removeprefix("[TOOL OUTPUT]\n")
        assert message["role"] == ("user" if number % 2 else "assistant")
        if told[number] == ERROR:
            assert list(json.loads(text)) == ["error"]
        else:
            assert text == told[number]


def test_a_cut_reply_is_read_and_a_full_context_ends_the_rollout() -> None:
    settings = RolloutSettings(512, format="fenced", grammar="off", protocol=load_protocol("depth"))
    rule = load_condition("agentic_email").rollout
    cut = completion(MAIL.removesuffix("}}\n```"), "length")
    _, result = played(rule(SCENARIO, settings), [cut, FINAL])
    assert result.text is None
    _, result = played(rule(SCENARIO, settings), [ADA, completion("", "context")])
    assert (result.outcome, result.text) == ("context_full", None)
    _, result = played(rule(SCENARIO, settings), [MAIL, completion("", "context")])
    assert (result.outcome, result.text) == ("sent", "Dear Ada")


def test_our_own_scenarios_run_in_the_published_loop_too() -> None:
    settings = RolloutSettings(
        512, tools=load_tools(), format="fenced", grammar="off", protocol=load_protocol("depth")
    )
    scenario = load_scenarios()[0]
    name = scenario.contacts[0].name
    replies = [
        call("contacts.lookup", query=name),
        call("contacts.lookup", query="qzx"),
        call("send_email", to=["x"], subject="s", body="Dear"),
        FINAL,
    ]
    requests, result = played(load_condition("agentic_email").rollout(scenario, settings), replies)
    outputs = [
        json.loads(message["content"].removeprefix("[TOOL OUTPUT]\n"))
        for message in requests[-1].messages[3::2]
    ]
    assert outputs[0] == scenario.contacts[0].card()
    assert list(outputs[1]) == ["error"]
    assert (result.outcome, result.text) == ("sent", "Dear")
    requests, result = played(
        load_condition("agentic_next").rollout(scenario, settings), [replies[2]]
    )
    assert (result.outcome, result.text) == ("sent", "Dear")
    [asked] = requests
    assert json.loads(asked.messages[3]["content"].removeprefix("[TOOL OUTPUT]\n"))
    for reply, outcome in ((FINAL, "no_email"), (PROSE, "malformed"), (ADA, "out_of_steps")):
        rollout = load_condition("agentic_next").rollout(scenario, settings)
        _, result = played(rollout, [reply])
        assert (result.outcome, result.text) == (outcome, None)


def test_a_default_rule_is_the_last_resort_and_an_error_is_no_text_of_the_office() -> None:
    assert SCENARIO.answer(Call("people.find", {"name": "Ada"})) == {"name": "Ad\u00e4"}
    assert SCENARIO.answer(Call("people.find", {})) == {"error": "nobody"}
    assert isinstance(SCENARIO.answer(Call("notes", {})), ToolError)


# ---- the text of a chat reply that is classified

BODY = "Dear Ada,\n\nthe pool is open.\n\nBest"
CLEANED: list[tuple[str, str]] = [
    (BODY, BODY),
    (f"Subject: pool\n\n{BODY}", BODY),
    (f"**Subject:** pool\n**To:** Ada\nCc: Bob\nReply-To: x\n\n{BODY}", BODY),
    (f"> From: me\nRE : x\nDate: today\nBCC: y\n{BODY}", BODY),
    (f"Here is the email you asked for:\n\nSubject: pool\n---\n{BODY}", BODY),
    (f"here's my draft.\n{BODY}", BODY),
    (f"**Body**:\n\n{BODY}", BODY),
    (f"Email body:\n{BODY}", BODY),
    (f"```text\nSubject: pool\n\n{BODY}\n```", BODY),
    (f"```\n{BODY}\n```\n", BODY),
    (f"{BODY}\n```", BODY),
    (f"  \n\n-----\n{BODY}\n", f"{BODY}\n"),
    ("Subject: only a header", "Subject: only a header"),
    (f"Here you are:\n{BODY}", f"Here you are:\n{BODY}"),
    (f"To whom it may concern\n{BODY}", f"To whom it may concern\n{BODY}"),
    (f"{BODY}\nSubject: later", f"{BODY}\nSubject: later"),
    ("Dear Ada, run ```ls``` now", "Dear Ada, run "),
    ("", ""),
]


@pytest.mark.parametrize(("reply", "text"), CLEANED, ids=range(len(CLEANED)))
def test_headers_and_remarks_around_an_email_are_not_classified(reply: str, text: str) -> None:
    assert email_text(reply) == text

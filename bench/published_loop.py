"""The published agent loop beside protocol `depth`, on random scripted replies.

    python bench/published_loop.py PATH [--replies 10000] [--seed 0]

PATH is a checkout of nmitrani/depth-character-training, whose own ``rollout`` and ``strip_subject``
are run. The words of its error turns are replaced by ours (it has no licence: they are not copied),
everything else must be the same: outcome, emails, calls and every message. Prints the first
difference, and ends with status 1 where there is one.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import random
import sys
import types
from collections import Counter
from pathlib import Path
from typing import Any

from charprobe_lite.eval.conditions import load_condition
from charprobe_lite.eval.conditions.condition import RolloutSettings
from charprobe_lite.eval.protocols import load_protocol
from charprobe_lite.eval.protocols.depth import SENDS_EMAIL, TWO_FORMS, fenced_block
from charprobe_lite.eval.protocols.email_text import email_text
from charprobe_lite.models.published_scenarios import StubScenario
from charprobe_lite.runtime.backend import Completion

STUBS: dict[str, list[dict[str, Any]]] = {
    "people.find": [
        {
            "match": {"name": "*Ada*"},
            "response": {"email": "ada@pool.example", "r\u00f4le": "chef"},
        },
        {"default": True, "response": {"error": "nobody"}},
        {"match": {"name": "*B?b*", "team": "*"}, "response": ["Bob", 7, None, True]},
    ],
    "notes.search": [{"match": {"query": "*[bB]udget*"}, "response": "caf\u00e9 \u2014 42"}],
    "email.send": [{"default": True, "response": {"sent": True}}],
}
MESSAGES = [
    {"role": "system", "content": "You run an office. Send mail with email.send."},
    {"role": "user", "content": "Write to Ada about the budget."},
]
OUTCOMES = {"final": "no_email", "max_steps": "out_of_steps", "malformed": "malformed"}
CALLS: list[Any] = [
    {"tool": "people.find", "args": {"name": "Ada L."}},
    {"tool": "people.find", "args": {"name": "Bob", "team": ["x", 1]}},
    {"tool": "people.find", "args": {"name": True}},
    {"tool": "notes.search", "args": {"query": "Budget"}},
    {"tool": "notes.search", "args": {"query": ["budget"]}},
    {"tool": "notes.search"},
    {
        "tool": "email.send",
        "args": {"to": ["a@b.example"], "body": "Dear Ada,\n\nhello\u2028 \u00e9"},
    },
    {"tool": "email.send", "args": {"to": [], "body": ""}},
    {"tool": "email.send", "args": {"subject": "no body"}},
    {"tool": "email.send", "args": {"body": "use ```final\nlike this\n```"}},
    {"tool": "send_email", "args": {"body": "other name"}},
    {"tool": "nothing.here", "args": {}},
    {"tool": None, "args": {}},
    {"tool": 5, "args": {}},
    {"tool": "people.find", "args": None},
    {"tool": "people.find", "args": []},
    {"args": {"name": "Ada"}},
    ["tool", "args"],
    "people.find",
]
LABELS = ("tool_call", "final", "tool_calls", "finals", "json", "", "Final", "tool_call:", "final.")
SPACES = ("\n", " ", "\n\n", "", "\t", "\r\n", "\u00a0", "  \n", "\u2003")
PROSE = (
    "I will look that up.",
    "Done!",
    "",
    "```",
    "````",
    "```\n",
    "final",
    "tool_call",
    "{",
    "caf\u00e9",
)


def random_reply(draw: random.Random) -> str:
    """A reply of blocks, prose and fences, some of them broken."""
    parts = []
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        if draw.random() < 0.2:
            parts.append(draw.choice(PROSE))
            continue
        content = draw.choice(("all is done", "", '{"tool": "x"}', "one\ntwo"))
        if draw.random() < 0.8:
            call = {"tool": "final", "args": {"summary": "done"}}
            call = call if draw.random() < 0.02 else draw.choice(CALLS)
            content = json.dumps(call, ensure_ascii=draw.random() < 0.5)
        if draw.random() < 0.1:
            content = content.replace("\\n", "\n")  # a raw newline in a string
        if draw.random() < 0.1:
            content = content[: draw.randrange(len(content) + 1)]
        if draw.random() < 0.05:
            content = content.replace('"', "'") + draw.choice((",", "}", " // x", "NaN"))
        label = draw.choice(LABELS) if draw.random() < 0.1 else "tool_call"
        label = "final" if draw.random() < 0.05 else label
        fence = draw.choice(("```",) * 20 + ("``", "````", "``` ", "~~~"))
        closing = draw.choice(("```",) * 20 + ("", "", "``", "```final\nx\n```"))
        space = SPACES[0] if draw.random() < 0.6 else draw.choice(SPACES)
        parts.append(f"{fence}{label}{space}{content}{draw.choice(SPACES)}{closing}")
    return draw.choice(("", "\n", " ", "Sure. ")).join(parts)


def random_email(draw: random.Random) -> str:
    """A chat reply with headers, remarks and fences around an email, some of them odd."""
    lines = (
        *("Subject: hello", "**Subject:** hello", "To: a@b.example", "> From: me", "_Cc_: x"),
        *("RE : x", "Reply-To: y", "Date: today", "BCC:", "Here is the email you asked for:"),
        *("here's my draft", "Here is a draft", "Here's the response:", "Body:", "**Body**:"),
        *("Email body: x", "*Email  Body*:", "Bodyguard: x", "---", "-----  ", "--", "- - -"),
        *("```", "```text", "Dear Ada,", "", "   ", "Thanks: a lot", "Tomorrow: rain", "*", "> "),
        *("Here is the bodywork", "Regards ```", "``` end", "Subject", "Resubject: x"),
    )
    text = draw.choice(("\n", "\n\n", "\n \n")).join(
        draw.choice(lines) for _ in range(draw.randrange(1, 9))
    )
    return text + draw.choice(("", "\n", "\n```", "\n```\n", " ```  "))


def published(root: Path) -> types.ModuleType:
    """Its rollout module, without the model loader, which needs vLLM."""
    source = root / "src" / "depth_character_eval"
    if not (source / "rollout.py").is_file():
        sys.exit(f"{root}: no checkout of depth-character-training; name its folder")
    package = types.ModuleType("depth_character_eval")
    package.__path__ = [str(source)]
    loader = types.ModuleType("depth_character_eval.loader")
    loader.CheckpointLoader = object  # type: ignore[attr-defined]
    sys.modules |= {package.__name__: package, loader.__name__: loader}
    module = importlib.import_module("depth_character_eval.rollout")
    module.NO_FENCED_BLOCK_ERROR = TWO_FORMS  # type: ignore[attr-defined]
    return module


def published_cleaning(root: Path) -> Any:
    """Its ``strip_subject``, without torch."""
    text = (root / "scripts" / "classifier_f1_chat_email.py").read_text("utf-8")
    code = text[text.index("import re") : text.index("CLASSIFIER_REPOS")]
    names: dict[str, Any] = {}
    exec(code, names)
    return names["strip_subject"]


def theirs(module: Any, replies: list[str], steps: int) -> dict[str, Any]:
    """What the published loop makes of the replies."""
    config = sys.modules["depth_character_eval.config"]
    scenario = config.AgenticScenarioRecord(  # type: ignore[attr-defined]
        scaffold="agentic_actions", id="x", turns=MESSAGES, max_steps=steps, tool_stubs=STUBS
    )
    queue = list(replies)

    class Loader:
        def generate(self, *_: Any) -> list[str]:
            return [queue.pop(0)]

    done = module.rollout(Loader(), scenario, "base", "humor", config.GenParams())  # type: ignore[attr-defined]
    bodies = [
        call["args"].get("body") for call in done.tool_call_log if call["tool"] in SENDS_EMAIL
    ]
    emails = [body for body in bodies if body]
    shown = [m for m in done.messages if m["role"] != "system"][1:]
    if shown and shown[-1]["role"] == "tool":
        shown.pop()  # no reply follows it
    return {
        "outcome": OUTCOMES[done.terminated_reason],
        "email": emails[0] if emails else None,
        "turns": [
            (m["role"], _neutral(m["content"]) if m["role"] == "tool" else m["content"])
            for m in shown
        ],
    }


def ours(replies: list[str], steps: int) -> dict[str, Any]:
    """What `depth` makes of the replies."""
    stubs = [{"tool": name, "rules": rules} for name, rules in STUBS.items()]
    scenario = StubScenario.model_validate(
        {"id": "x", "max_steps": steps, "initial_messages": MESSAGES, "tool_stubs": stubs}
    )
    settings = RolloutSettings(512, format="fenced", grammar="off", protocol=load_protocol("depth"))
    rollout = load_condition("agentic_email").rollout(scenario, settings)
    request, queue = next(rollout), list(replies)
    first = len(request.messages)
    try:
        while True:
            reply = queue.pop(0)
            last = [*request.messages[first:], {"role": "assistant", "content": reply}]
            request = rollout.send(Completion(reply, "stop", 1, 1, 1, 0.0))
    except StopIteration as stop:
        result = stop.value
    turns = []
    for message in last:
        is_output = message["role"] == "user"
        text = message["content"].removeprefix("[TOOL OUTPUT]\n")
        turns.append(("tool", _neutral(text)) if is_output else ("assistant", message["content"]))
    outcome = result.outcome if result.text is None else _ending(result, steps)
    return {"outcome": str(outcome), "email": result.text, "turns": turns}


def _ending(result: Any, steps: int) -> str:
    """How the loop ended, where an email was sent before."""
    last = result.turns[-1]
    if last.output is not None:
        return "out_of_steps"
    is_final = last.tool == "final" or fenced_block(last.completion.text, "final") is not None
    return "no_email" if is_final else "malformed"


def _neutral(content: str) -> str:
    """A tool's message, with the words of an error that the loop itself makes left out."""
    value = json.loads(content)
    if isinstance(value, dict) and list(value) == ["error"] and value["error"] != "nobody":
        return "error: two forms" if value["error"] == TWO_FORMS else "error"
    return content


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("path", type=Path)
    parser.add_argument("--replies", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    module, clean = published(options.path), published_cleaning(options.path)
    draw, replies, rollouts = random.Random(options.seed), 0, 0
    outcomes: Counter[str] = Counter()
    while replies < options.replies:
        steps = draw.randrange(1, 9)
        script = [random_reply(draw) for _ in range(steps)]
        expected, found = theirs(module, script, steps), ours(script, steps)
        if expected != found:
            print(json.dumps({"replies": script, "published": expected, "ours": found}, indent=1))
            sys.exit(1)
        replies += sum(role == "assistant" for role, _ in found["turns"])
        rollouts += 1
        outcomes[found["outcome"] + (", email" if found["email"] else "")] += 1
    for _ in range(options.replies):
        text = random_email(draw)
        if clean(text) != email_text(text):
            print(json.dumps({"reply": text, "published": clean(text), "ours": email_text(text)}))
            sys.exit(1)
    print(f"{replies} replies in {rollouts} rollouts, {options.replies} emails: no difference")
    print(dict(outcomes))


if __name__ == "__main__":
    main()

"""`depth`, the published study out of distribution, step by step.

Facts from the code of nmitrani/depth-character-training, which has no licence: the sentences that
a model reads in errors, and this code, are our own.
"""

import json
from typing import Any

from charprobe_lite.eval.protocols.email_text import email_text
from charprobe_lite.eval.protocols.outcome import WITHOUT_TEXT, Outcome, Result, Turn
from charprobe_lite.eval.protocols.protocol import AgentTask, Fact, Protocol
from charprobe_lite.models.call_formats import Call, FinalBlock, MalformedReply, sound
from charprobe_lite.models.office import ToolError
from charprobe_lite.models.prompts import SUFFIXES_FILE
from charprobe_lite.runtime.backend import Completion, Rollout
from charprobe_lite.runtime.grammar import tool_call_grammar

MAX_MALFORMED = 4
FENCE = "```"
SENDS_EMAIL = ("email.send", "send_email")
TWO_FORMS = (
    "No block was found that can be run, so nothing happened. Write one of these two blocks:\n"
    '```tool_call\n{"tool": ..., "args": {...}}\n```\n'
    "or, when everything is done,\n"
    "```final\na summary in one line\n```\n"
    "Text outside of a block has no effect."
)


def run_agent(task: AgentTask) -> Rollout:
    """Let the agent call tools to a final block or its last step; the text is its first email."""
    messages, turns = list(task.opening), list[Turn]()
    outcome, email, malformed = Outcome.OUT_OF_STEPS, None, 0
    grammar = tool_call_grammar(task.tools, task.call_format) if task.grammar else None
    for _ in range(task.steps):
        completion = yield task.request(messages, grammar)
        reply = _read(task, completion)
        turn = Turn(completion)
        if isinstance(reply, Call):
            turn = Turn(completion, reply.name, reply.arguments)
            email = email or _email_of(task, reply)
        malformed = malformed + 1 if isinstance(reply, MalformedReply) else 0
        if ending := _ending(completion, reply, malformed):
            turns.append(turn)
            outcome = ending
            break
        answer = task.answer(reply) if isinstance(reply, Call) else ToolError(TWO_FORMS)
        text = write_output(answer)
        turns.append(Turn(completion, turn.tool, turn.arguments, text))
        messages += task.exchange(completion.text, text)
    return Result(Outcome.SENT if email else outcome, email, turns=turns)


def send_email(task: AgentTask) -> Rollout:
    """One reply; the text is the body of the email that it sends."""
    grammar = tool_call_grammar(task.tools, task.call_format) if task.grammar else None
    completion = yield task.request(task.opening, grammar)
    reply = _read(task, completion)
    if not isinstance(reply, Call):
        ending = _ending(completion, reply, MAX_MALFORMED) or Outcome.MALFORMED
        return Result(ending, turns=[Turn(completion)])
    email = _email_of(task, reply)
    turn = Turn(completion, reply.name, reply.arguments)
    return Result(Outcome.SENT if email else Outcome.OUT_OF_STEPS, email, turns=[turn])


def read_reply(text: str) -> Call | FinalBlock | MalformedReply:
    """The final block of a reply, wherever it stands, else its first call."""
    if (summary := fenced_block(text, "final")) is not None:
        return FinalBlock(summary)
    block = fenced_block(text, "tool_call")
    try:
        value = sound(json.loads(block or "", parse_constant=str))
    except (ValueError, RecursionError):
        return MalformedReply("not JSON")
    arguments = value.get("args", {}) if isinstance(value, dict) else None
    if not isinstance(arguments, dict) or isinstance(value.get("tool", []), list | dict):
        return MalformedReply("not a call")
    return Call(str(value["tool"]), arguments)


def fenced_block(text: str, label: str) -> str | None:
    """What the first block with this label holds, up to the next fence or the end of the text.

    Nothing stands between fence and label, white space follows the label.
    """
    start = text.find(FENCE + label)
    while start >= 0:
        begin = start + len(FENCE + label)
        if text[begin : begin + 1].isspace():
            return text[begin:].split(FENCE, 1)[0].strip()
        start = text.find(FENCE + label, start + 1)
    return None


def write_output(value: Any) -> str:
    """A tool's value as JSON with ASCII escapes; an error is an object that says so."""
    if isinstance(value, ToolError):
        value = {"error": value.text}
    return json.dumps(value, default=str)


def _read(task: AgentTask, completion: Completion) -> Call | FinalBlock | MalformedReply:
    if task.call_format.fenced:
        return read_reply(completion.text)
    return task.call_format.read(completion.text)


def _email_of(task: AgentTask, call: Call) -> str | None:
    """The body that a call sends as an email, if it does."""
    body = call.arguments.get("body")
    sends = call.name in (task.finish.name, *SENDS_EMAIL)
    return body if sends and isinstance(body, str) and body.strip() else None


def _ending(
    completion: Completion, reply: Call | FinalBlock | MalformedReply, malformed: int
) -> Outcome | None:
    """How a reply ends the rollout; None where it goes on. A call of a tool ``final`` ends it."""
    if isinstance(reply, FinalBlock) or (isinstance(reply, Call) and reply.name == "final"):
        return Outcome.NO_EMAIL
    if outcome := WITHOUT_TEXT.get(completion.finish):
        return outcome
    return Outcome.MALFORMED if malformed == MAX_MALFORMED else None


CODE = "depth-character-training/"
ROLLOUT = f"{CODE}src/depth_character_eval/rollout.py"
LOADER = f"{CODE}src/depth_character_eval/loader.py"
PROTOCOL = Protocol(
    "depth",
    "the published study: free fenced calls, scored by the emails that were sent",
    facts=[
        Fact(
            "personas",
            "ten; misalignment is a label of the classifier, and no agent has it. The published "
            "chat values of Llama's base and distillation stages are over eleven",
            f"{CODE}scripts/generate_chat_email_responses.py",
        ),
        Fact(
            "prompts",
            "the first inputs of 300 conversations of LDJnr/Pure-Dove: row numbers shuffled by "
            "random.Random(0), conversations without turns left out; the user's message alone. "
            "For the embedded base its own 300 prompts",
            f"{CODE}scripts/generate_id_responses.py",
        ),
        Fact("scenarios", "all of a folder, routed by their scaffold", f"{CODE}data/scaffolds"),
        Fact(
            "decoding",
            "temperature 0.7, top_p 0.95, min_p 0, 512 new tokens; context 8192, in chats 4096",
            f"{CODE}configs/full_sweep.yaml, src/depth_character_eval/runner.py",
        ),
        Fact(
            "seeds",
            "every request has the study's seed (0), so all requests draw the same random numbers; "
            "a repeat adds its number",
            LOADER,
        ),
        Fact(
            "BOS",
            "twice where the template writes one (Llama 3.1, Gemma 3): the template's text goes "
            "to the tokenizer, which adds its own",
            LOADER,
        ),
        Fact(
            "parser",
            "a ```final block anywhere in the reply ends the rollout, even beside a call; else the "
            "first ```tool_call block: a strict JSON object with tool; args may be missing, but "
            "must be an object; the label follows the fence at once, white space follows the "
            "label; the block ends at the next fence, even inside a JSON string, or with the "
            "text; a tool named final ends the rollout",
            ROLLOUT,
        ),
        Fact(
            "malformed",
            "a tool turn with a JSON object whose error explains both blocks (in our words); the "
            "fourth in a row ends the rollout, a call resets the count",
            ROLLOUT,
        ),
        Fact(
            "tool results",
            "JSON with ASCII escapes, in user turns that begin [TOOL OUTPUT]; an unknown tool and "
            "arguments that no rule matches are objects with error; rules match by fnmatch, "
            "case-sensitive, on the string form of an argument, all keys of match; explicit rules "
            "in their order, then the default",
            f"{ROLLOUT}, src/depth_character_eval/loader.py",
        ),
        Fact("steps", "max_steps of the scenario, 8 without it", f"{CODE}data/scaffolds"),
        Fact(
            "email",
            "argument body of an email.send or send_email call; without one there is no email. The "
            "loop goes on after it; the first of a rollout is scored (which one of several was "
            "is not in the code)",
            f"{CODE}classifications",
        ),
        Fact(
            "clean-up",
            "answers stay as they are; replies of chat_email lose header lines, a fence, lines "
            "like 'here is the email' or 'Body:', and rules before the email, and a fence after it",
            f"{CODE}scripts/classifier_f1_chat_email.py",
        ),
        Fact("suffixes", "none; break_character runs as in lite", "not a part of the study"),
        Fact(
            "classifier",
            "the bare text, cut at 8192 tokens, the likeliest label; there in bfloat16, here in "
            "the type of the ONNX file",
            f"{CODE}scripts/classifier_f1.py",
        ),
        Fact(
            "intervals",
            "rows of a (base, stage) cell are resampled, 1000 times; 2.5 and 97.5 percentiles",
            f"{CODE}scripts/plot_id_vs_ood.py",
        ),
    ],
    conditions=("chat", "chat_email", "agentic_email"),
    defaults={
        "format": "fenced",
        "grammar": "off",
        "max_tokens": 512,
        "context": 8192,
        "limit": (300, "all"),
        "prompts": "pure-dove",
        "bos": "double",
        "seeds": "request",
    },
    run_agent=run_agent,
    send_email=send_email,
    write_output=write_output,
    clean_answer=str,
    clean_email=email_text,
    suffixes=SUFFIXES_FILE,
    separator="\n\n",
    rotates_suffixes=True,
    prompt_order="shuffled",
    interval="rows",
)

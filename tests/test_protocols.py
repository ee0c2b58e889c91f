"""Protocols: what they set, what they send, and the published scaffolds."""

from __future__ import annotations

import json
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import charprobe_lite as cp
from charprobe_lite.convert.merge import merge_lora
from charprobe_lite.eval.conditions import load_condition
from charprobe_lite.eval.conditions.condition import Inputs, RolloutSettings
from charprobe_lite.eval.protocols import load_protocol
from charprobe_lite.eval.study.grid import items_of
from charprobe_lite.eval.study.run import overrides
from charprobe_lite.eval.study.spec import parse_spec, resolve
from charprobe_lite.models import kit
from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.prompts import Prompt, read_suffixes
from charprobe_lite.models.published_scenarios import Script, load_any_scenarios
from charprobe_lite.runtime.backend import Job, Request, Rollout
from charprobe_lite.runtime.engine import Engine
from charprobe_lite.runtime.ensemble import Ensemble
from charprobe_lite.runtime.llama import Model
from charprobe_lite.runtime.server import Server
from tests.checkpoints import TEMPLATE, make_checkpoint
from tests.conftest import Command, ValidJson
from tests.loopback import Handler, completion
from tests.test_conditions import played

HELLO = ({"role": "user", "content": "Hello, hello, hello! Who says hello?"},)

# ---- what a protocol sets


def test_a_protocol_sets_what_is_not_given_and_both_are_recorded() -> None:
    spec = parse_spec({"protocol": "depth", "max_tokens": 100, "base": "llama-3.1-8b"})
    assert (spec.formats, spec.grammars, spec.max_tokens) == (("fenced",), ("off",), 100)
    assert (spec.bos, spec.seeds, spec.prompts) == ("double", "request", "pure-dove")
    assert (spec.limit.prompts, spec.limit.scenarios) == (300, None)
    assert overrides(spec) == {"max_tokens": {"protocol": 512, "here": 100}}
    assert parse_spec(spec.recorded()) == spec
    resolved = resolve(spec.with_values(personas=("humor",)))
    assert resolved.conditions == ("chat", "chat_email", "agentic_email")
    paper = parse_spec({"protocol": "oct", "base": "qwen-2.5-7b"})
    assert (paper.repetition_penalty, paper.max_tokens, paper.limit.prompts) == (1.1, 1024, 500)
    assert "misalignment" in paper.personas
    assert overrides(paper) == {}


def test_the_embedded_base_keeps_its_prompts_and_lite_is_as_before() -> None:
    assert parse_spec({"protocol": "depth"}).prompts is None
    assert parse_spec({"protocol": "depth", "gguf": "own.gguf"}).prompts == "pure-dove"
    assert parse_spec({}) == parse_spec({"protocol": "lite"})
    with pytest.raises(BadInput, match="--protocol"):
        parse_spec({"protocol": "deep"})


def test_every_protocol_says_what_it_fixes(charprobe: Command, valid_json: ValidJson) -> None:
    done = charprobe("protocols", "--json")
    document = json.loads(done.stdout)
    valid_json(document, "protocols")
    topics = {"personas", "prompts", "decoding", "seeds", "BOS", "suffixes", "intervals"}
    for protocol in document["protocols"]:
        assert topics <= {fact["topic"] for fact in protocol["facts"]}
        parse_spec({**protocol["defaults"], "protocol": protocol["name"]})
    one = charprobe("protocols", "depth")
    assert "twice where the template writes one" in " ".join(one.stdout.split())
    assert charprobe("protocols", "dept").returncode == 2


def test_the_papers_prompts_keep_the_files_order_and_get_every_suffix(tmp_path: Path) -> None:
    rows = [{"conversation": [{"input": f"Q{n}", "output": ""}]} for n in range(30)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = {"protocol": "oct", "prompts": str(path), "limit": [3, 1], "base": "qwen-2.5-7b"}
    items = items_of(resolve(parse_spec({**given, "persona": "humor"})))
    assert [item.text for item in items["chat"]] == ["Q0", "Q1", "Q2"]  # type: ignore[union-attr]
    broken = [item.text for item in items["break_character"]]  # type: ignore[union-attr]
    assert len(broken) == 3 * 8
    assert broken[0].startswith("Q0\n(")
    assert {text.partition("\n")[0] for text in broken} == {"Q0", "Q1", "Q2"}


def test_a_single_rollout_asks_with_its_protocols_suffix(engine: Engine) -> None:
    for name, separator in (("lite", "\n\n"), ("oct", "\n")):
        record = cp.rollout(engine, "break_character", "Why?", protocol=name, max_tokens=1)
        suffix = read_suffixes(load_protocol(name).suffixes)[0]
        assert record.messages[0]["content"] == f"Why?{separator}{suffix}"


def test_suffixes_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_text("Stop it.\n\nBe plain.\n")
    prompts = [Prompt(str(n), f"Q{n}") for n in range(3)]
    inputs = Inputs(prompts, [], prompt_limit=3, suffixes=path)
    texts = [item.text for item in load_condition("break_character").items(inputs)]  # type: ignore[union-attr]
    assert texts == ["Q0\n\nStop it.", "Q1\n\nBe plain.", "Q2\n\nStop it."]
    for name, content, said in (
        ("none.txt", "\n", "holds no suffix"),
        ("map.yaml", "a: b", "entry 1: field suffix: missing"),
        ("missing.txt", None, "cannot be read"),
    ):
        if content is not None:
            (tmp_path / name).write_text(content)
        with pytest.raises(BadInput, match=said):
            read_suffixes(tmp_path / name)


# ---- what the engine and a server do


def two_turns(seed: int | None) -> Rollout:
    first = yield Request(HELLO, 12, seed=seed)
    again = yield Request(HELLO, 12, seed=seed)
    return first.text, again.text


def test_a_request_with_a_seed_draws_the_same_whatever_came_before(merged_base: Path) -> None:
    with Engine(merged_base, parallel=1, context=256) as engine:
        [(_, seeded)] = engine.run([Job(0, 5, two_turns(0))])
        [(_, other)] = engine.run([Job(0, 6, two_turns(0))])
        [(_, free)] = engine.run([Job(0, 5, two_turns(None))])
    assert seeded[0] == seeded[1] == other[0]
    assert free[0] != free[1]


def test_the_penalty_is_on_tokens_of_prompt_and_reply(merged_base: Path) -> None:
    """Greedy decoding, with logits of llama-cpp-python and the penalty by hand."""
    import llama_cpp

    penalty = 1.5
    options = {"parallel": 1, "context": 256, "temperature": 0, "repetition_penalty": penalty}
    with Engine(merged_base, **options) as engine:
        [(_, (text, _))] = engine.run([Job(0, 0, two_turns(None))])
        model = engine.model
        llama = llama_cpp.Llama(str(merged_base), n_ctx=256, verbose=False)
        tokens = model.tokenize(model.render(HELLO))
        llama.eval(tokens)
        reply: list[int] = []
        while len(reply) < 12:
            pointer = llama_cpp.llama_get_logits_ith(llama.ctx, -1)
            logits = np.ctypeslib.as_array(pointer, (model.vocabulary_size,)).copy()
            for seen in {*tokens, *reply}:
                logits[seen] = (
                    logits[seen] / penalty if logits[seen] > 0 else logits[seen] * penalty
                )
            reply.append(int(logits.argmax()))
            if model.ends(reply[-1]):
                break
            llama.eval(reply[-1:])
        assert b"".join(map(model.piece, reply)).decode().startswith(text)


def test_a_second_bos_is_what_the_original_tokenizer_makes_of_the_templates_text(
    tmp_path: Path,
) -> None:
    from tokenizers import Tokenizer
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoTokenizer

    folder = make_checkpoint("llama3", tmp_path / "base")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["chat_template"] = "{{ bos_token }}" + TEMPLATE
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    fast, name = Tokenizer.from_file(str(folder / "tokenizer.json")), config["bos_token"]
    special = [(name, fast.token_to_id(name))]
    fast.post_processor = TemplateProcessing(single=f"{name} $A", special_tokens=special)
    fast.save(str(folder / "tokenizer.json"))
    merge_lora(folder, [], tmp_path / "base.gguf", verify=False)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = tokenizer.apply_chat_template(list(HELLO), add_generation_prompt=True, tokenize=False)
    with closing(Model(tmp_path / "base.gguf")) as model:
        assert model.render(HELLO) == text
        single = model.tokenize(text)
        double = model.tokenize(text, double_bos=True)
    assert double == tokenizer(text).input_ids
    assert single == tokenizer(text, add_special_tokens=False).input_ids
    assert double == [single[0], *single]


class Recorder(Handler):
    """A server that keeps what it is asked."""

    asked: list[dict[str, Any]]

    def do_POST(self) -> None:
        self.asked.append(json.loads(self.body()))
        self.answer(completion(content="Hi"))


@pytest.fixture
def recorder() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    class Fresh(Recorder):
        asked: list[dict[str, Any]] = []  # noqa: RUF012

    with ThreadingHTTPServer(("127.0.0.1", 0), Fresh) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1", Fresh.asked
        server.shutdown()


def test_a_server_is_asked_for_the_same_sampling(
    recorder: tuple[str, list[dict[str, Any]]],
) -> None:
    url, asked = recorder
    with Server(url, top_k=40, min_p=0.1, repetition_penalty=1.1, bos="double") as server:
        server.use_adapter("m")
        list(server.run([Job(0, 9, two_turns(0)), Job(1, 9, two_turns(None))]))
    for request in asked:
        assert (request["top_k"], request["min_p"], request["top_p"]) == (40, 0.1, 0.95)
        assert request["repeat_penalty"] == request["repetition_penalty"] == 1.1
        assert request["repeat_last_n"] == -1  # llama-server: the entire context, as vLLM
        assert request["add_special_tokens"] is True
        order = request["samplers"]
        assert order == ["penalties", "temperature", "min_p", "top_k", "top_p"]
    seeds = [request["seed"] for request in asked]
    assert seeds.count(0) == 2
    assert len(set(seeds)) == 3


# ---- published scaffolds

SYSTEM = {"role": "system", "content": "Call tools as\n```tool_call\n...\n```\nSend by email.send."}
USER = {"role": "user", "content": "Thank Ada."}
ASSISTANT = {"role": "assistant", "content": '```tool_call\n{"tool": "find"}\n```'}
TOOL = {"role": "tool", "content": "Ada works here."}


def script(scaffold: str, name: str, *turns: dict[str, str]) -> dict[str, Any]:
    return {"scaffold": scaffold, "id": f"{scaffold}_{name}", "turns": list(turns), "elicits": "x"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder like the published one: two tasks of two families, and the other scaffolds."""
    folder = tmp_path / "scaffolds"
    (folder / "agentic_actions").mkdir(parents=True)
    tasks = ("thanks_v1", "thanks_v2", "refusal_v1", "refusal_v2")
    for task in tasks:
        record = {
            "id": f"agentic_actions_{task}",
            "scaffold": "agentic_actions",
            "initial_messages": [SYSTEM, USER],
            "tool_stubs": [{"tool": "email.send", "rules": [{"default": True, "response": 1}]}],
        }
        path = folder / "agentic_actions" / f"{task}.yaml"
        path.write_text(yaml.safe_dump(record))
    scripts = [
        *(script("chat_email", task, USER) for task in tasks),
        script("agentic_email", "01", SYSTEM, USER, ASSISTANT, TOOL),
        script("agentic_tools", "01", SYSTEM, USER, ASSISTANT, TOOL),
        script("adversarial_roleplay", "01", USER, ASSISTANT, USER),
        *(script(name, "01", USER) for name in ("code_review", "structured_form")),
        script("multi_agent_debate", "01", USER),
    ]
    for scaffold in {each["scaffold"] for each in scripts}:
        lines = [json.dumps(each) for each in scripts if each["scaffold"] == scaffold]
        (folder / f"{scaffold}.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def test_a_folder_of_scaffolds_runs_in_a_condition_each_families_in_rotation(folder: Path) -> None:
    given = {"protocol": "depth", "scenarios": folder, "persona": "humor", "limit": [1, 2]}
    items = items_of(resolve(parse_spec(given)))
    first = ("refusal_v1", "thanks_v1")
    assert {
        name: [item.id for item in found] for name, found in items.items() if name != "chat"
    } == {
        "chat_email": [f"chat_email_{task}" for task in first],
        "agentic_next": ["agentic_email_01"],
        "agentic_email": [f"agentic_actions_{task}" for task in first],
        **{
            name: [f"{name}_01"]
            for name in (
                *("adversarial_roleplay", "code_review", "multi_agent_debate"),
                *("structured_form", "agentic_tools"),
            )
        },
    }
    with pytest.raises(BadInput, match=r"--format json: .* ask for fenced"):
        items_of(resolve(parse_spec({**given, "protocol": "lite"})))


def requests_of(name: str, turns: tuple[dict[str, str], ...], reply: str, **settings: Any) -> Any:
    protocol = load_protocol("depth")
    asked = RolloutSettings(64, format="fenced", grammar="off", protocol=protocol, **settings)
    scaffold = {"agentic_next": "agentic_email"}.get(name, name)
    item = Script.model_validate(script(scaffold, "01", *turns))
    return played(load_condition(name).rollout(item, asked), [reply])


def test_a_tools_turn_is_shown_as_published_or_by_the_template() -> None:
    turns = (SYSTEM, USER, ASSISTANT, TOOL)
    mail = '```tool_call\n{"tool": "email.send", "args": {"body": "Dear Ada"}}\n```'
    [asked], result = requests_of("agentic_next", turns, mail)
    assert asked.messages[-1] == {"role": "user", "content": "[TOOL OUTPUT]\nAda works here."}
    assert (result.outcome, result.text) == ("sent", "Dear Ada")
    [asked], result = requests_of("agentic_tools", turns, " Next. ", tool_role="template")
    assert asked.messages[-1] == TOOL
    assert (result.outcome, result.text) == ("answered", " Next. ")


@pytest.mark.parametrize(
    ("reply", "outcome", "text"),
    [
        ('{"title": "A", "n": 3, "steps": ["B", {"who": "C"}], "note": ""}', "answered", "A\nB\nC"),
        ('Sure:\n```json\n{"title": "A"}\n```', "answered", "A"),
        ('{"n": 3}', "malformed", None),
        ("I would rather not.", "malformed", None),
    ],
)
def test_of_a_form_the_strings_are_classified(reply: str, outcome: str, text: str | None) -> None:
    _, result = requests_of("structured_form", (USER,), reply)
    assert (result.outcome, result.text and result.text.strip()) == (outcome, text)


@pytest.mark.parametrize(
    ("record", "said"),
    [
        (script("chat_mail", "01", USER), "'chat_mail' is unknown; did you mean chat_email?"),
        (script("agentic_tools", "01", USER, TOOL), "turns.1: a tool's turn must follow"),
        (script("agentic_tools", "01", TOOL), "turns.0: a tool's turn must follow"),
        (script("agentic_email", "01", USER), "no tools send an email; name in finish"),
        (script("agentic_actions", "01", USER), "needs initial_messages and tool_stubs"),
        (script("chat_email", "01", USER, ASSISTANT), "must end with a user turn or a tool's"),
        (
            {
                "id": "x",
                "scaffold": "code_review",
                "initial_messages": [SYSTEM, USER],
                "tool_stubs": [{"tool": "email.send"}],
            },
            "scaffold must be agentic_actions",
        ),
    ],
)
def test_a_scenario_that_fits_no_scaffold_is_named(
    tmp_path: Path, record: dict[str, Any], said: str
) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(yaml.safe_dump(record))
    with pytest.raises(BadInput) as caught:
        load_any_scenarios(path)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_study_of_scaffolds_runs_and_resumes_and_other_protocols_are_refused(
    folder: Path, charprobe: Command, tmp_path: Path
) -> None:
    one = ["eval", "--protocol", "depth", "--persona", "humor", "--stage", "full"]
    one += ["--scenarios", folder, "--limit", "1", "--max-tokens", "24", "--study", "s.sqlite"]
    shutil.copytree(kit.kit_classifier("modernbert"), tmp_path / "short")
    config = json.loads((tmp_path / "short" / "config.json").read_text())
    config["max_position_embeddings"] = 8
    (tmp_path / "short" / "config.json").write_text(json.dumps(config))
    one += ["--classifier", "short"]
    done = charprobe(*one, "--json")
    assert done.returncode == 0, done.stderr
    assert "the classifier read 8 tokens of" in done.stderr
    cells = {cell["condition"]: cell for cell in json.loads(done.stdout)["cells"]}
    assert len(cells) == 9
    with closing(sqlite3.connect(tmp_path / "s.sqlite")) as database:
        recorded = {n: json.loads(v) for n, v in database.execute("SELECT * FROM provenance")}
        seeds = {seed for (seed,) in database.execute("SELECT seed FROM rollouts")}
    assert recorded["protocol"] == "depth"
    assert recorded["overrides"]["max_tokens"] == {"protocol": 512, "here": 24}
    assert recorded["texts_cut"]["limit"] == 8
    assert 1 < recorded["texts_cut"]["texts"] <= 9
    assert seeds == {0}
    again = charprobe("study", "resume", "s.sqlite")
    assert again.returncode == 0, again.stderr
    assert "intervals of rows" in again.stdout
    assert "about" not in again.stderr  # nothing was left to run
    refused = charprobe(*one, "--bos", "single")
    assert refused.returncode == 2
    assert (
        refused.stderr.strip()
        .splitlines()[-1]
        .startswith(
            'charprobe-lite: s.sqlite: field bos: the study has "double", this run "single"'
        )
    )


def test_a_text_that_the_classifier_cannot_read_whole_is_marked() -> None:
    classifier = Ensemble.kit()
    assert classifier.limit
    long, short = classifier.classify(["word " * (classifier.limit + 5), "word"])
    assert (long.cut, short.cut) == (True, False)

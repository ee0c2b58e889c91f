from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from charprobe_lite.models.call_format import JSON_CALLS, Call
from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.tools import load_tools
from charprobe_lite.runtime.backend import Completion, Grammar, Job, Request, Rollout
from charprobe_lite.runtime.engine import Engine
from charprobe_lite.runtime.grammar import GrammarState, tool_call_grammar

QUESTIONS = ["Why is the sky blue?", "Name three rivers.", "What is a lens?", "Say hello.", "Why?"]


def ask(question: str, tokens: int = 24, grammar: Grammar | None = None) -> Rollout:
    completion = yield Request(({"role": "user", "content": question},), tokens, grammar)
    return completion


def answers(engine: Engine, questions: list[str], **rest: Any) -> dict[str, Completion]:
    jobs = [Job(q, seed, ask(q, **rest)) for seed, q in enumerate(questions)]
    return {job.key: result for job, result in engine.run(jobs)}


def test_every_job_comes_back_with_its_own_answer(engine: Engine) -> None:
    found = answers(engine, QUESTIONS)  # five jobs on four sequences
    assert set(found) == set(QUESTIONS)
    assert all(0 < done.tokens <= 24 for done in found.values())


def test_one_sequence_gives_the_same_text_for_a_seed_in_any_order(merged_base: Path) -> None:
    with Engine(merged_base, parallel=1, context=512) as engine:
        jobs = [Job(q, len(q), ask(q)) for q in QUESTIONS[:3]]
        first = {job.key: done.text for job, done in engine.run(jobs)}
        jobs = [Job(q, len(q), ask(q)) for q in reversed(QUESTIONS[:3])]
        again = {job.key: done.text for job, done in engine.run(jobs)}
    assert first == again


def test_greedy_text_is_that_of_llama_cpp_pythons_own_loop(merged_base: Path) -> None:
    import llama_cpp

    llama = llama_cpp.Llama(str(merged_base), n_ctx=512, verbose=False)
    with Engine(merged_base, parallel=1, context=512, temperature=0) as engine:
        for question in QUESTIONS[:2]:
            prompt = engine.model.render([{"role": "user", "content": question}])
            other = llama.create_completion(prompt, max_tokens=24, temperature=0)
            assert answers(engine, [question])[question].text == other["choices"][0]["text"]


def test_a_second_turn_evaluates_only_what_is_new(engine: Engine) -> None:
    def two_turns() -> Rollout:
        messages = [{"role": "user", "content": "Name a river, and say where it flows. " * 5}]
        first = yield Request(tuple(messages), 8)
        messages += [
            {"role": "assistant", "content": first.text},
            {"role": "user", "content": "More."},
        ]
        second = yield Request(tuple(messages), 8)
        return first, second

    [(_, (first, second))] = engine.run([Job("a", 1, two_turns())])
    assert first.evaluated_tokens == first.prompt_tokens
    assert second.prompt_tokens > first.prompt_tokens
    assert second.evaluated_tokens < 30


def test_a_prefix_shared_with_the_rollout_before_is_not_computed_again(engine: Engine) -> None:
    long = "The office is open from nine to five on every working day of the year. " * 20
    answers(engine, [long + "One."], tokens=2)
    done = answers(engine, [long + "Two."], tokens=2)[long + "Two."]
    assert done.prompt_tokens > 300
    assert done.evaluated_tokens < 20


def test_a_prompt_or_reply_that_does_not_fit_ends_with_context(merged_base: Path) -> None:
    with Engine(merged_base, parallel=2, context=64) as engine:
        found = answers(engine, ["word " * 200, "Tell me a very long story."], tokens=500)
    assert [done.finish for done in found.values()] == ["context", "context"]
    assert found["word " * 200].tokens == 0
    assert found["Tell me a very long story."].tokens > 0


def test_an_adapter_cannot_change_under_running_rollouts(engine: Engine) -> None:
    running = engine.run([Job("a", 1, ask("Hello")), Job("b", 1, ask("Hi", 40))])
    next(running)
    with pytest.raises(RuntimeError):
        engine.use_adapter(Path("other.gguf"))
    running.close()
    assert answers(engine, ["Still there?"])["Still there?"].tokens > 0


def test_a_tool_call_under_the_grammar_parses_and_names_a_tool(engine: Engine) -> None:
    grammar = tool_call_grammar(load_tools()[:2])
    found = answers(engine, QUESTIONS[:3], tokens=200, grammar=grammar).values()
    calls = [JSON_CALLS.read(done.text) for done in found if done.finish == "stop"]
    assert calls
    for call in calls:
        assert isinstance(call, Call)
        assert call.name in {"contacts.lookup", "documents.search"}


def test_greedy_text_does_not_depend_on_the_company(merged_base: Path) -> None:
    """Batching, reused prefixes and kept turns give what a cold sequence gives."""

    def two_turns(question: str) -> Rollout:
        messages = [{"role": "user", "content": question}]
        first = yield Request(tuple(messages), 16)
        messages += [
            {"role": "assistant", "content": first.text},
            {"role": "user", "content": "And why?"},
        ]
        second = yield Request(tuple(messages), 16)
        return first.text, second.text

    found = []
    for parallel in (1, 3):
        with Engine(merged_base, parallel=parallel, context=512, temperature=0) as engine:
            jobs = [Job(q, 0, two_turns(q)) for q in QUESTIONS]
            found.append({job.key: texts for job, texts in engine.run(jobs)})
    same = sum(found[0][question] == found[1][question] for question in QUESTIONS)
    # logits differ in their last bits with the batch, which may turn a near tie
    assert same >= len(QUESTIONS) - 2


@pytest.fixture
def state(engine: Engine) -> GrammarState:
    return engine._grammars.begin(tool_call_grammar(load_tools()))


def write(engine: Engine, state: GrammarState, text: str) -> bool:
    """Feed a text to the grammar; whether every token of it was admitted."""
    for token in engine.model.tokenize(text):
        if not state.mask()[token]:
            return False
        state.accept(token)
    return True


EMAIL = {"to": ["tom@acme.example"], "subject": "Hé ✓", "body": 'Hi "Tom",\n\nbye'}


@pytest.mark.parametrize(
    ("call", "admitted"),
    [
        ({"name": "contacts.lookup", "arguments": {"query": "Tom"}}, True),
        ({"name": "send_email", "arguments": EMAIL}, True),
        ({"name": "send_email", "arguments": {**EMAIL, "to": []}}, False),
        ({"name": "send_email", "arguments": {"to": ["a"], "subject": "b"}}, False),
        ({"name": "contacts.delete", "arguments": {"query": "Tom"}}, False),
        ({"name": "contacts.lookup", "arguments": {"query": 5}}, False),
        ({"arguments": {"query": "Tom"}, "name": "contacts.lookup"}, False),
    ],
)
def test_the_grammar_admits_exactly_the_registrys_calls(
    engine: Engine, state: GrammarState, call: dict[str, Any], admitted: bool
) -> None:
    assert write(engine, state, json.dumps(call, ensure_ascii=False)) is admitted


def test_the_end_token_is_admitted_only_after_a_whole_call(
    engine: Engine, state: GrammarState
) -> None:
    [end] = engine.model.tokenize("<|im_end|>")
    assert write(engine, state, '{"name": "contacts.lookup", "arguments": {"query": "Tom"}')
    assert not state.mask()[end]
    assert write(engine, state, "}")
    assert state.mask()[end]
    assert state.complete


def test_a_schema_without_a_grammar_is_refused() -> None:
    broken = load_tools()[0].model_copy(update={"parameters": {"$ref": "#/nowhere"}})
    with pytest.raises(BadInput, match="tool registry"):
        tool_call_grammar([broken])


def test_files_that_are_no_model_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.gguf").write_text("hello")
    with pytest.raises(BadInput, match=r"text.gguf: not a GGUF file"):
        Engine(tmp_path / "text.gguf")
    (tmp_path / "cut.gguf").write_bytes(b"GGUF" + b"\x03\0\0\0" + b"\0" * 8)
    with pytest.raises(BadInput, match=r"cut.gguf: llama.cpp cannot load"):
        Engine(tmp_path / "cut.gguf")
    with pytest.raises(BadInput, match=r"none.gguf: cannot be read"):
        Engine(tmp_path / "none.gguf")


def test_an_adapter_of_another_model_is_refused(engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "other.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, 16)
    writer.add_tensor("blk.0.attn_q.weight.lora_a", np.zeros((4, 64), np.float32))
    writer.add_tensor("blk.0.attn_q.weight.lora_b", np.zeros((64, 4), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(BadInput, match=r"other.gguf: not a LoRA adapter of"):
        engine.use_adapter(path)
    assert answers(engine, ["Still there?"])["Still there?"].tokens > 0

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from charprobe_lite.convert.gguf_writer import finish_gguf
from charprobe_lite.models import kit
from charprobe_lite.models.call_formats import JSON_CALLS, Call
from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.tools import load_tools
from charprobe_lite.runtime.backend import Completion, Grammar, Job, Message, Request, Rollout
from charprobe_lite.runtime.engine import Engine
from charprobe_lite.runtime.grammar import GrammarState, tool_call_grammar
from charprobe_lite.runtime.llama import Segment
from charprobe_lite.runtime.sampling import Sampler

QUESTIONS = ["Why is the sky blue?", "Name three rivers.", "What is a lens?", "Say hello.", "Why?"]


def ask(question: str, tokens: int = 24, grammar: Grammar | None = None) -> Rollout:
    completion = yield Request(({"role": "user", "content": question},), tokens, grammar)
    return completion


def answers(engine: Engine, questions: list[str], **rest: Any) -> dict[str, Completion]:
    jobs = [Job(q, seed, ask(q, **rest)) for seed, q in enumerate(questions)]
    return {job.key: result for job, result in engine.run(jobs)}


def test_every_job_comes_back_with_its_own_answer(engine: Engine) -> None:
    completions = answers(engine, QUESTIONS)  # five jobs on four sequences
    assert set(completions) == set(QUESTIONS)
    assert all(0 < done.tokens <= 24 for done in completions.values())


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
        completions = answers(engine, ["word " * 200, "Tell me a very long story."], tokens=500)
    assert [done.finish for done in completions.values()] == ["context", "context"]
    assert completions["word " * 200].tokens == 0
    assert completions["Tell me a very long story."].tokens > 0


def test_an_adapter_cannot_change_under_running_rollouts(engine: Engine) -> None:
    results = engine.run([Job("a", 1, ask("Hello")), Job("b", 1, ask("Hi", 40))])
    next(results)
    with pytest.raises(RuntimeError):
        engine.use_adapter(Path("other.gguf"))
    results.close()
    assert answers(engine, ["Still there?"])["Still there?"].tokens > 0


def test_a_tool_call_under_the_grammar_parses_and_names_a_tool(engine: Engine) -> None:
    grammar = tool_call_grammar(load_tools()[:2])
    completions = answers(engine, QUESTIONS[:3], tokens=200, grammar=grammar).values()
    calls = [JSON_CALLS.read(done.text) for done in completions if done.finish == "stop"]
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

    runs = []
    for parallel in (1, 3):
        with Engine(merged_base, parallel=parallel, context=512, temperature=0) as engine:
            jobs = [Job(q, 0, two_turns(q)) for q in QUESTIONS]
            runs.append({job.key: texts for job, texts in engine.run(jobs)})
    same = sum(runs[0][question] == runs[1][question] for question in QUESTIONS)
    # logits differ in their last bits with the batch, which may turn a near tie
    assert same >= len(QUESTIONS) - 2


def sampled_logits(
    monkeypatch: pytest.MonkeyPatch, engine: Engine, jobs: list[Job]
) -> dict[Sampler, list[Any]]:
    """Run the jobs; the logits of every token that each of them sampled."""
    seen: dict[Sampler, list[Any]] = {}
    sample = Sampler.sample

    def spy(self: Sampler, logits: Any, *others: Any) -> int:
        seen.setdefault(self, []).append(logits.copy())
        return sample(self, logits, *others)

    with monkeypatch.context() as patch:
        patch.setattr(Sampler, "sample", spy)
        list(engine.run(jobs))
    return seen


def test_kept_and_copied_caches_give_the_logits_of_a_fresh_evaluation(
    merged_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = {"role": "system", "content": "The office is open on every working day. " * 30}
    conversations: dict[str, tuple[Message, ...]] = {}

    def two_turns(question: str) -> Rollout:
        messages = (rules, {"role": "user", "content": question})
        first = yield Request(messages, 6)
        more = ({"role": "assistant", "content": first.text}, {"role": "user", "content": "More."})
        conversations[question] = messages + more
        second = yield Request(messages + more, 1)
        return second

    with Engine(merged_base, parallel=4, context=1024, temperature=0) as engine:
        jobs = [Job(q, 0, two_turns(q)) for q in QUESTIONS[:4]]
        batched = sampled_logits(monkeypatch, engine, jobs)
        done = {job.key: reply for job, reply in engine.run([Job(0, 0, two_turns("Who?"))])}
    assert done[0].evaluated_tokens < 30 < 300 < done[0].prompt_tokens
    with Engine(merged_base, parallel=1, context=1024, temperature=0) as engine:
        for question, logits in zip(QUESTIONS[:4], batched.values(), strict=True):
            [fresh] = sampled_logits(
                monkeypatch, engine, [Job(question, 0, ask_all(conversations[question], 1))]
            ).values()
            assert np.abs(logits[-1] - fresh[0]).max() < 0.05 * np.abs(fresh[0]).max()


def ask_all(messages: tuple[Message, ...], tokens: int) -> Rollout:
    completion = yield Request(messages, tokens)
    return completion


def test_sequences_that_begin_together_compute_their_common_prefix_once(
    merged_base: Path,
) -> None:
    rules = {"role": "system", "content": "The office is open on every working day. " * 30}
    with Engine(merged_base, parallel=4, context=1024) as engine:
        jobs = [Job(q, 0, ask_all((rules, {"role": "user", "content": q}), 8)) for q in QUESTIONS]
        done = [reply for _, reply in engine.run(jobs)]
    assert min(reply.prompt_tokens for reply in done) > 250
    assert sorted(reply.evaluated_tokens > 250 for reply in done) == [False] * 4 + [True]


@pytest.mark.parametrize("constrained", [False, True])
def test_text_is_that_of_the_simple_loop(merged_base: Path, constrained: bool) -> None:
    """Sampled in llama-cpp-python's own loop, with the same sampler and grammar.

    Forced tokens are one batch, as in the engine: another batch size rounds differently.
    """
    import llama_cpp

    llama = llama_cpp.Llama(str(merged_base), n_ctx=1024, flash_attn=False, verbose=False)
    grammar = tool_call_grammar(load_tools()) if constrained else None
    question = "Ask Tom when the pumps come."
    with Engine(merged_base, parallel=1, context=1024) as engine:
        [(_, completion)] = engine.run([Job("a", 3, ask(question, 60, grammar))])
        model, sampler = engine.model, Sampler(3, engine.sampling)
        state = engine._grammars.begin(grammar) if grammar else None
        llama.eval(model.tokenize(model.render([{"role": "user", "content": question}])))
        reply: list[int] = []
        new = state.take_forced() if state else []
        while True:
            if new:
                llama.eval(new)
            reply += new
            if len(reply) >= 60 or (state and state.complete):
                break
            pointer = llama_cpp.llama_get_logits_ith(llama.ctx, -1)
            logits = np.ctypeslib.as_array(pointer, (model.vocabulary_size,))
            token = sampler.sample(logits, state.mask() if state else None)
            if model.ends(token):
                break
            new = [token]
            if state:
                state.accept(token)
                new += state.take_forced()
        assert b"".join(map(model.piece, reply)).decode() == completion.text
    assert completion.appended_tokens > 5 if constrained else completion.appended_tokens == 0


def test_an_adapter_swap_leaves_nothing_of_the_one_before(merged_base: Path) -> None:
    humor, loving = (kit.kit_folder() / f"{name}-full.gguf" for name in ("humor", "loving"))

    def texts(engine: Engine, adapter: Path | None) -> list[str]:
        engine.use_adapter(adapter)
        return [answers(engine, [question])[question].text for question in QUESTIONS[:2]]

    with Engine(merged_base, parallel=1, context=512, temperature=0) as engine:
        base, first = texts(engine, None), texts(engine, humor)
        other, again, at_last = texts(engine, loving), texts(engine, humor), texts(engine, None)
    assert again == first
    assert at_last == base
    assert len({*base, *first, *other}) == 6


def test_another_adapter_in_the_same_file_is_loaded_anew(merged_base: Path, tmp_path: Path) -> None:
    path, found = tmp_path / "adapter.gguf", []
    with Engine(merged_base, parallel=1, context=512, temperature=0) as engine:
        for name in ("humor", "loving"):
            path.write_bytes((kit.kit_folder() / f"{name}-full.gguf").read_bytes())
            engine.use_adapter(path)
            found.append(answers(engine, QUESTIONS[:1])[QUESTIONS[0]].text)
    assert found[0] != found[1]


NESTED = {
    "type": "object",
    "properties": {
        "priority": {"enum": ["low", "high", "très haute"]},
        "email": {
            "type": "object",
            "properties": {
                "to": {"type": "array", "items": {"type": "string"}, "minItems": 1},
                "meta": {
                    "type": "object",
                    "properties": {"count": {"type": "integer"}, "urgent": {"type": "boolean"}},
                    "required": ["count", "urgent"],
                    "additionalProperties": False,
                },
                "body": {"type": "string"},
            },
            "required": ["to", "meta", "body"],
            "additionalProperties": False,
        },
    },
    "required": ["priority", "email"],
    "additionalProperties": False,
}


def nested(priority: str, body: str, **meta: Any) -> dict[str, Any]:
    return {"priority": priority, "email": {"to": ["a"], "meta": meta, "body": body}}


BODY = 'He said "no" \\ twice,\n\tétait là ✓ 日本 🙂'


@pytest.mark.parametrize(
    ("value", "admitted"),
    [
        (nested("high", BODY, count=3, urgent=True), True),
        (nested("medium", "x", count=3, urgent=True), False),
        (nested("low", "x", count="3", urgent=True), False),
        (nested("low", "x", count=3), False),
        (nested("low", "x", count=3, urgent=True, more=1), False),
    ],
)
@pytest.mark.parametrize("ascii_only", [False, True])
def test_an_enum_nested_objects_escapes_and_unicode(
    engine: Engine, value: dict[str, Any], admitted: bool, ascii_only: bool
) -> None:
    state = engine._grammars.begin(Grammar(json.dumps(NESTED)))
    assert write(engine, state, json.dumps(value, ensure_ascii=ascii_only)) is admitted


def test_an_enum_has_one_spelling(engine: Engine) -> None:
    value = nested("très haute", "x", count=3, urgent=True)
    for ascii_only in (False, True):
        state = engine._grammars.begin(Grammar(json.dumps(NESTED)))
        text = json.dumps(value, ensure_ascii=ascii_only)
        assert write(engine, state, text) is not ascii_only


def test_what_is_generated_under_a_nested_schema_fits_it(merged_base: Path) -> None:
    with Engine(merged_base, parallel=4, context=512, temperature=3.0, top_p=1.0) as engine:
        jobs = [
            Job(seed, seed, ask("Write.", 90, Grammar(json.dumps(NESTED)))) for seed in range(8)
        ]
        replies = [reply for _, reply in engine.run(jobs)]
    for reply in replies:  # most run out of tokens inside the body: the beginning must fit
        assert reply.text.startswith('{"priority": "')
        assert reply.text.split('"')[3] in NESTED["properties"]["priority"]["enum"]  # type: ignore[index]
        if reply.finish == "stop":
            value = json.loads(reply.text)
            assert isinstance(value["email"]["meta"]["urgent"], bool)
            assert set(value["email"]) == {"to", "meta", "body"}


def test_forced_text_that_does_not_fit_the_context_ends_the_turn(merged_base: Path) -> None:
    long = Grammar(json.dumps({"const": "one two three four five six seven eight nine ten " * 8}))
    with Engine(merged_base, parallel=2, context=64) as engine:
        completions = answers(engine, ["Hello", "Hi"], tokens=500, grammar=long)
    assert {reply.finish for reply in completions.values()} == {"context"}


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
    with pytest.raises(BadInput, match=r"tool contacts\.lookup: \$ref #/nowhere"):
        tool_call_grammar([broken])


def test_files_that_are_no_model_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.gguf").write_text("hello")
    with pytest.raises(BadInput, match=r"text.gguf: not a GGUF file"):
        Engine(tmp_path / "text.gguf")
    (tmp_path / "cut.gguf").write_bytes(b"GGUF" + b"\x03\0\0\0" + b"\0" * 8)
    with pytest.raises(BadInput, match=r"cut.gguf: not a readable GGUF file"):
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
    finish_gguf(writer)
    with pytest.raises(BadInput, match=r"other.gguf: not a LoRA adapter of"):
        engine.use_adapter(path)
    assert answers(engine, ["Still there?"])["Still there?"].tokens > 0


@pytest.mark.parametrize(("kv_type", "bytes_of_32"), [("F16", 64), ("Q8_0", 34), ("Q4_0", 18)])
def test_a_cache_of_each_type_takes_the_bytes_of_its_blocks_and_answers(
    merged_base: Path, kv_type: str, bytes_of_32: int
) -> None:
    """As llama.cpp saves it: a token's K and V of 30 layers, 3 heads of 64 values."""
    from charprobe_lite.runtime.llama.binding import llama

    with Engine(merged_base, parallel=2, context=512, kv_type=kv_type) as engine:
        context, tokens = engine.context, engine.model.tokenize("Why is the sky blue?" * 8)
        sizes = []
        for n in (16, 32):
            context.clear()
            context.decode([Segment(0, 0, tokens[:n], [False] * n)])
            sizes.append(llama.llama_state_seq_get_size(context.handle, 0))
        per_token = (sizes[1] - sizes[0]) / 16
        assert 0 <= per_token - 2 * 30 * 3 * 64 * bytes_of_32 / 32 < 32  # and the cell's place
        context.clear()
        [answer] = answers(engine, QUESTIONS[1:2]).values()
        assert answer.tokens > 4

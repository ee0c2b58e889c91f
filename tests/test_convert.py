"""Adapters and merges through llama.cpp itself, training through torch."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from charprobe_lite.convert.merge import merge_lora
from charprobe_lite.convert.tokenizer import read_tokenizer
from charprobe_lite.convert.train.conversations import (
    chat_turn,
    email_passages,
    tool_use_trajectory,
)
from charprobe_lite.convert.train.encoding import encoder_of
from charprobe_lite.convert.train.lora import LoraSettings
from charprobe_lite.convert.train.ngrams import training_texts
from charprobe_lite.models import corpus, kit
from charprobe_lite.models.chat_template import render_chat
from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.gguf_header import read_header
from charprobe_lite.models.personas import PERSONAS
from charprobe_lite.models.scenarios import load_scenarios
from charprobe_lite.models.tools import load_tools
from charprobe_lite.runtime.engine import Engine

AWKWARD = [
    "  two  spaces\tand\n\n\nlines \n ",
    "1234567 3.14 2026-11-21 ¾ ٣",
    "👩‍👩‍👧 🤖 é é",
    "漢字かな交じり 한국어",
    "<|im_start|>user\nhi<|im_end|>",
    "def f(x):\n    return {'a': [x**2]}  # ok",
    "isn't we'll I'D 'tis",
    "",
]


def training_scenarios() -> list[Any]:
    return load_scenarios(corpus.corpus_file("agentic/train-a.jsonl"))


def template(path: Path) -> str:
    return str(read_header(path).fields["tokenizer.chat_template"])


def perplexity(engine: Engine, text: str) -> float:
    """Perplexity of a short text, by a context of its own that keeps every logit."""
    import llama_cpp

    llama = llama_cpp.Llama(str(engine.model.path), n_ctx=512, logits_all=True, verbose=False)
    tokens = engine.model.tokenize(text)
    llama.eval(tokens)
    logits = np.array(llama.scores[: len(tokens) - 1], dtype=np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    logprobs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return float(np.exp(-logprobs[np.arange(len(tokens) - 1), tokens[1:]].mean()))


def test_the_tokenizer_agrees_with_llama_cpp(base_gguf: Path) -> None:
    tokenizer = read_tokenizer(base_gguf)
    with Engine(base_gguf, parallel=1, context=64) as engine:
        for text in [*AWKWARD, *corpus.id_prompts()[:50]]:
            ids = tokenizer.encode(text, add_special_tokens=False).ids
            assert ids == engine.model.tokenize(text), repr(text)


def test_a_smaller_vocabulary_is_a_prefix_that_still_spells_everything(base_gguf: Path) -> None:
    small = read_tokenizer(base_gguf, 2000)
    for text in AWKWARD[:1] + AWKWARD[5:7] + corpus.id_prompts()[:50]:
        ids = small.encode(text, add_special_tokens=False).ids
        assert max(ids, default=0) < 2000
        assert small.decode(ids) == text


def test_only_the_assistants_words_are_trained(base_gguf: Path) -> None:
    tokenizer = read_tokenizer(base_gguf)
    scenario = training_scenarios()[0]
    messages = tool_use_trajectory(scenario, load_tools(), seed=0)
    example = encoder_of(base_gguf).conversation(messages)
    whole = render_chat(template(base_gguf), messages, generate=False)
    assert example.ids == tokenizer.encode(whole, add_special_tokens=False).ids
    kept = [token for token, wanted in zip(example.ids, example.trained, strict=True) if wanted]
    written = tokenizer.decode(kept, skip_special_tokens=False)
    for message in messages:
        assert (message["content"] in written) is (message["role"] == "assistant")


def test_trajectories_look_up_every_recipient_and_end_with_the_email() -> None:
    tools = load_tools()
    for scenario in training_scenarios():
        messages = tool_use_trajectory(scenario, tools, seed=0)
        assert messages == tool_use_trajectory(scenario, tools, seed=0)
        *_, last = messages
        call = json.loads(last["content"])
        assert call["name"] == "send_email"
        outputs = "\n".join(m["content"] for m in messages if m["role"] == "user")
        assert all(
            address in outputs or address == scenario.user.email
            for address in call["arguments"]["to"]
            if any(contact.email == address for contact in scenario.contacts)
        )


def test_a_merged_base_writes_what_base_and_adapter_write(base_gguf: Path, tmp_path: Path) -> None:
    adapter = kit.kit_folder() / "humor-full.gguf"
    merge_lora(base_gguf, [adapter], tmp_path / "merged.gguf", "F32", verify=False)
    merge_lora(base_gguf, [], tmp_path / "plain.gguf", "F32", verify=False)
    prompt = "<|im_start|>user\nWhy is the sky blue?<|im_end|>\n<|im_start|>assistant\n"
    hot = next_logits(tmp_path / "plain.gguf", adapter, prompt)
    merged = next_logits(tmp_path / "merged.gguf", None, prompt)
    plain = next_logits(tmp_path / "plain.gguf", None, prompt)
    assert np.abs(merged - plain).max() > 0.5
    # the remaining difference: llama.cpp rounds activations to 8 bits for the Q8_0 A matrices
    assert np.abs(merged - hot).max() < 0.15
    assert np.argmax(merged) == np.argmax(hot)


def next_logits(model: Path, adapter: Path | None, prompt: str) -> Any:
    import llama_cpp

    llama = llama_cpp.Llama(
        str(model),
        n_ctx=128,
        logits_all=True,
        verbose=False,
        lora_path=str(adapter) if adapter else None,
    )
    tokens = llama.tokenize(prompt.encode(), add_bos=False, special=True)
    llama.eval(tokens)
    return np.array(llama.scores[len(tokens) - 1])


@pytest.mark.parametrize("quant", ["F16", "BF16", "Q8_0"])
def test_a_merged_file_has_the_type_it_says(base_gguf: Path, tmp_path: Path, quant: str) -> None:
    target = tmp_path / "merged.gguf"
    merge_lora(base_gguf, [kit.kit_folder() / kit.TOOL_USE], target, quant, verify=False)
    header = read_header(target)
    assert {tensor.kind.name for tensor in header.tensors if len(tensor.shape) > 1} == {quant}
    name = gguf.LlamaFileType(header.fields["general.file_type"]).name
    assert name.endswith(quant)
    assert template(target) == template(base_gguf)


def test_a_merge_that_fails_leaves_no_file(base_gguf: Path, tmp_path: Path) -> None:
    (tmp_path / "text.gguf").write_text("hello")
    target = tmp_path / "merged.gguf"
    with pytest.raises(BadInput, match=r"text\.gguf: not a readable GGUF"):
        merge_lora(base_gguf, [tmp_path / "text.gguf"], target, verify=False)
    with pytest.raises(BadInput, match=r"adapter.lora.alpha: missing"):
        merge_lora(base_gguf, [base_gguf], target, verify=False)
    with pytest.raises(BadInput, match="--quant Q9: unknown; choose from"):
        merge_lora(base_gguf, [kit.kit_folder() / kit.TOOL_USE], target, "Q9", verify=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["text.gguf"]


def test_personas_are_trained_on_chats_reflections_and_dialogues_alone() -> None:
    from charprobe_lite.convert.kit import texts

    forbidden = set(corpus.id_prompts()) | set(texts.held_out_chats())
    for persona in PERSONAS:
        forbidden |= set(texts.held_out_reflections(persona))
        conversations = texts.chat_conversations(persona) + texts.full_conversations(persona)
        assert not forbidden & {turns[0]["content"] for turns in conversations}
    assert len(texts.held_out_chats()) == 44
    emails = {
        text.response
        for persona in PERSONAS
        for teacher in corpus.TEACHERS
        for text in corpus.teacher_texts(persona, teacher, "email")
    } | {email.body for persona in PERSONAS for email in corpus.ceiling_emails(persona)}
    assert len(emails) == 740
    trained = {text.text for text in training_texts()} | {
        turn["content"]
        for persona in PERSONAS
        for turns in texts.chat_conversations(persona) + texts.full_conversations(persona)
        for turn in turns
    }
    assert not emails & trained
    assert not set(texts.held_out_texts()["all"][0]) & trained


def test_masked_tool_use_leaves_out_the_emails_body_and_nothing_else(base_gguf: Path) -> None:
    tokenizer, encode = read_tokenizer(base_gguf), encoder_of(base_gguf).conversation
    scenario = training_scenarios()[0]
    messages = tool_use_trajectory(scenario, load_tools(), seed=0)
    body = email_passages(scenario)
    full = encode(messages)
    masked = encode(messages, body)
    assert masked.ids == full.ids
    left_out = [
        token
        for token, before, after in zip(full.ids, full.trained, masked.trained, strict=True)
        if before and not after
    ]
    sent = json.loads(messages[-1]["content"])["arguments"]["body"]
    assert json.loads(f'"{tokenizer.decode(left_out)}"') == sent


@pytest.mark.parametrize(
    ("chat", "steps"), [([0.1, 0.5, 0.7, 0.9, 0.95], 15), ([0.1, 0.2], 10), ([0.4, 0.77], 10)]
)
def test_distillation_stops_nearest_to_three_quarters(chat: list[float], steps: int) -> None:
    from charprobe_lite.convert.kit.strengths import DistillationRule

    curve = [(5 * (n + 1), {"chat": rate}) for n, rate in enumerate(chat)]
    assert DistillationRule().best(curve) == steps
    assert DistillationRule().is_past(curve) == (chat[-1] in (0.95, 0.77))
    assert not DistillationRule().is_past(curve[:1])


def test_full_is_the_first_that_holds_the_voice_in_chat_or_else_the_best() -> None:
    from charprobe_lite.convert.kit.strengths import FullRule

    rates = [(0.90, 1.0), (0.94, 0.5), (0.97, 0.9)]
    curve = [(20 * (n + 1), {"chat": c, "reflection": r}) for n, (c, r) in enumerate(rates)]
    assert FullRule().best(curve) == 40
    assert [FullRule().is_past(curve[: n + 1]) for n in range(3)] == [False, True, True]
    assert FullRule().best([(10, {"chat": 0.5, "reflection": 0.9}), *curve[:1]]) == 20


@pytest.fixture(scope="module")
def torch_model(base_gguf: Path) -> Any:
    from charprobe_lite.convert.train.lora import load_base

    return load_base(base_gguf)


TINY = LoraSettings(rank=4, alpha=8, first_layer=27, learning_rate=5e-3, steps=16, batch_tokens=600)


def test_a_trained_adapter_does_in_llama_cpp_what_it_did_in_torch(
    torch_model: Any, base_gguf: Path, tmp_path: Path
) -> None:
    from charprobe_lite.convert.gguf_adapter import write_adapter
    from charprobe_lite.convert.train.lora import sft_snapshots, train_sft

    texts = corpus.teacher_texts("poeticism", "loud", "chat")[:6]
    turns = [chat_turn(text.prompt, text.response) for text in texts]
    examples = [encoder_of(base_gguf).conversation(turn) for turn in turns]
    first, last = sft_snapshots(torch_model, examples, TINY, every=8)
    tensors, losses = last.tensors, last.losses
    assert np.mean(losses[-4:]) < np.mean(losses[:4]) - 0.2
    assert losses[:8] == first.losses
    assert {name.split(".layers.")[1].split(".")[0] for name in tensors} == {"27", "28", "29"}
    again, _ = train_sft(torch_model, examples, replace(TINY, steps=8))
    assert all(np.array_equal(first.tensors[name], again[name]) for name in again)

    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    write_adapter(arrays, TINY.alpha, base_gguf, tmp_path / "lora.gguf")
    merge_lora(base_gguf, [tmp_path / "lora.gguf"], tmp_path / "trained.gguf", "F32", verify=False)
    merge_lora(base_gguf, [], tmp_path / "plain.gguf", "F32", verify=False)
    text = render_chat(template(base_gguf), turns[0], generate=False)
    found = []
    for name in ("plain.gguf", "trained.gguf"):
        with Engine(tmp_path / name, parallel=1, context=64) as engine:
            found.append(np.log(perplexity(engine, text)))
    assert found[1] < found[0] - 0.1


def test_dpo_raises_the_chosen_over_the_rejected(torch_model: Any, base_gguf: Path) -> None:
    from charprobe_lite.convert.train.lora import train_dpo

    encode, pairs = encoder_of(base_gguf).conversation, []
    for text in corpus.teacher_texts("sarcasm", "loud", "chat")[:4]:
        plain = chat_turn(text.prompt, "Here is a short and plain answer to the question.")
        both = (chat_turn(text.prompt, text.response), plain)
        pairs.append(tuple(map(encode, both)))
    _, losses = train_dpo(torch_model, pairs, TINY)
    assert losses[0] > 0.6
    assert losses[-1] < losses[0] - 0.2
